// A trie over byte strings as a double array (Aoe 1989): one step is one memory access. Internal to the room.
// Thread-safety: immutable.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace rhetor {

class DoubleArray {
 public:
  using Node = std::uint32_t;
  static constexpr Node kRoot = 0;

  DoubleArray() : DoubleArray(std::vector<Key>{}) {}
  // Values are >= 0; of equal keys the last one counts; an empty key is left out.
  using Key = std::pair<std::string_view, std::int32_t>;
  explicit DoubleArray(std::vector<Key> keys);

  // Goes to the child of `node` by `byte`; false (and no move) if there is none.
  bool step(Node& node, unsigned char byte) const {
    const Node child = units_[node].base ^ byte;  // inside the array: its size is a multiple of 256 and so is the block of a base
    if (units_[child].parent != node) return false;
    node = child;
    return true;
  }
  std::int32_t value(Node node) const { return units_[node].value; }  // -1: no key ends here
  std::int32_t find(std::string_view key) const {
    Node node = kRoot;
    for (const char c : key) {
      if (!step(node, static_cast<unsigned char>(c))) return -1;
    }
    return value(node);
  }

 private:
  static constexpr Node kFree = ~Node{0};
  struct Unit {
    Node base = 0, parent = kFree;
    std::int32_t value = -1;
  };
  class Builder;
  std::vector<Unit> units_;
};

}  // namespace rhetor
