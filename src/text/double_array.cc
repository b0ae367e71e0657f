#include "text/double_array.h"

#include <algorithm>

namespace rhetor {

// Places the children of one node after the other: depth first over the sorted keys. Only the last few blocks of 256 units take new
// children, and a block that refuses too often is closed, so building is near linear in the nodes.
class DoubleArray::Builder {
 public:
  Builder(std::vector<Unit>& units, const std::vector<Key>& keys) : units_(units), keys_(keys) {
    add_block();
    --blocks_[0].free;  // the root
    struct Range { Node node; std::size_t begin, end, depth; };
    std::vector<Range> stack{{kRoot, 0, keys.size(), 0}};
    std::vector<Range> children;
    std::vector<unsigned char> bytes;
    while (!stack.empty()) {
      const Range range = stack.back();
      stack.pop_back();
      std::size_t at = range.begin;
      for (; at < range.end && keys_[at].first.size() == range.depth; ++at) units_[range.node].value = keys_[at].second;
      if (range.depth == 0) units_[kRoot].value = -1;
      children.clear();
      bytes.clear();
      while (at < range.end) {
        const char byte = keys_[at].first[range.depth];
        const std::size_t first = at;
        while (at < range.end && keys_[at].first[range.depth] == byte) ++at;
        bytes.push_back(static_cast<unsigned char>(byte));
        children.push_back({0, first, at, range.depth + 1});
      }
      if (children.empty()) continue;
      const Node base = place(bytes);
      units_[range.node].base = base;
      for (std::size_t i = 0; i < children.size(); ++i) {
        children[i].node = base ^ bytes[i];
        units_[children[i].node].parent = range.node;
      }
      blocks_[base / 256].free -= static_cast<int>(children.size());
      stack.insert(stack.end(), children.rbegin(), children.rend());
    }
  }

 private:
  struct Block { int free = 256, refusals = 0, first = 0; };

  bool is_free(Node node) const { return units_[node].parent == kFree && node != kRoot; }

  void add_block() {
    blocks_.emplace_back();
    units_.resize(units_.size() + 256);
  }

  Node place(const std::vector<unsigned char>& bytes) {
    const std::size_t open = blocks_.size() > 16 ? blocks_.size() - 16 : 0;
    for (std::size_t b = open; b < blocks_.size(); ++b) {
      Block& block = blocks_[b];
      if (block.free < static_cast<int>(bytes.size()) || block.refusals > 24) continue;
      const auto start = static_cast<Node>(b * 256);
      while (block.first < 256 && !is_free(start + static_cast<Node>(block.first))) ++block.first;
      for (Node slot = start + static_cast<Node>(block.first); slot < start + 256; ++slot) {
        if (!is_free(slot)) continue;
        const Node base = slot ^ bytes[0];
        if (std::all_of(bytes.begin(), bytes.end(), [&](unsigned char byte) { return is_free(base ^ byte); })) return base;
      }
      ++block.refusals;
    }
    add_block();
    // In an empty block any base does, save in the first one, where the root stands; that one is never reached here empty.
    return static_cast<Node>((blocks_.size() - 1) * 256) ^ bytes[0];
  }

  std::vector<Unit>& units_;
  const std::vector<Key>& keys_;
  std::vector<Block> blocks_;
};

DoubleArray::DoubleArray(std::vector<Key> keys) {
  std::stable_sort(keys.begin(), keys.end(), [](const Key& a, const Key& b) { return a.first < b.first; });
  units_.reserve(256);
  Builder builder(units_, keys);
}

}  // namespace rhetor
