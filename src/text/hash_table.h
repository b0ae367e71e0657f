// A flat hash table from 64-bit keys to 64-bit values, for the two look-ups that dominate encoding. Internal to the room.
#pragma once

#include <cstdint>
#include <vector>

namespace rhetor {

// Immutable after building, so concurrent reads are safe. The value kAbsent cannot be stored.
class FlatTable {
 public:
  static constexpr std::uint64_t kAbsent = ~std::uint64_t{0};

  explicit FlatTable(std::size_t expected = 0) {
    std::size_t size = 16;
    while (size < 2 * expected + 2) size *= 2;
    slots_.assign(size, {0, kAbsent});
  }
  std::size_t size() const { return count_; }
  // The first value of a key stays; returns false if it had one.
  bool insert(std::uint64_t key, std::uint64_t value) {
    if (2 * (count_ + 1) > slots_.size()) grow();
    std::size_t i = index(key);
    for (; slots_[i].value != kAbsent; i = (i + 1) & (slots_.size() - 1)) {
      if (slots_[i].key == key) return false;
    }
    slots_[i] = {key, value};
    ++count_;
    return true;
  }
  std::uint64_t find(std::uint64_t key) const {
    for (std::size_t i = index(key);; i = (i + 1) & (slots_.size() - 1)) {
      if (slots_[i].value == kAbsent || slots_[i].key == key) return slots_[i].value;
    }
  }

 private:
  struct Slot { std::uint64_t key, value; };
  std::size_t index(std::uint64_t key) const {  // the finaliser of SplitMix64 (Steele et al. 2014)
    key = (key ^ key >> 30) * 0xbf58476d1ce4e5b9u;
    key = (key ^ key >> 27) * 0x94d049bb133111ebu;
    return static_cast<std::size_t>(key ^ key >> 31) & (slots_.size() - 1);
  }
  void grow() {
    std::vector<Slot> old(2 * slots_.size(), Slot{0, kAbsent});
    old.swap(slots_);
    count_ = 0;
    for (const Slot& slot : old) {
      if (slot.value != kAbsent) insert(slot.key, slot.value);
    }
  }
  std::vector<Slot> slots_;
  std::size_t count_ = 0;
};

inline std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

}  // namespace rhetor
