// What the words of a pipeline became, one cache a thread: a word costs a look-up instead of spelling and segmenting it again. Direct-mapped,
// two cache lines an entry, fixed size, no allocation after the first use: hostile text can only make it useless. Internal to the room.
#pragma once

#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "text/token_model.h"

namespace rhetor {

class PieceCache {
 public:
  struct alignas(64) Entry {
    char word[54];
    std::uint8_t length = 0, count = 0;
    TokenId ids[11];
    std::uint8_t begins[11], ends[11];
    std::uint32_t owner = 0;
  };
  static_assert(sizeof(Entry) == 128);

  static PieceCache& of_this_thread() {
    thread_local const std::unique_ptr<PieceCache> cache(new PieceCache);
    return *cache;
  }
  static bool fits(std::string_view word) { return word.size() <= sizeof Entry::word; }
  // The place of a word; holds(...) tells whether it is the word's now. REQUIRES: fits(word).
  Entry& place(std::uint32_t owner, std::string_view word) { return entries_[(hash64(word) ^ owner * 0x9E3779B9u) % kEntries]; }
  static bool holds(const Entry& entry, std::uint32_t owner, std::string_view word) {
    return entry.length == word.size() && entry.owner == owner && std::memcmp(entry.word, word.data(), word.size()) == 0;
  }
  static void remember(Entry& entry, std::uint32_t owner, std::string_view word, const std::vector<Piece>& pieces) {
    if (pieces.size() > std::size(entry.ids)) return;
    std::memcpy(entry.word, word.data(), word.size());
    entry.length = static_cast<std::uint8_t>(word.size());
    entry.owner = owner;
    entry.count = static_cast<std::uint8_t>(pieces.size());
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      entry.ids[i] = pieces[i].id;
      entry.begins[i] = static_cast<std::uint8_t>(pieces[i].begin);
      entry.ends[i] = static_cast<std::uint8_t>(pieces[i].end);
    }
  }

 private:
  static constexpr std::size_t kEntries = 1 << 14;
  PieceCache() = default;
  std::vector<Entry> entries_{kEntries};
};

}  // namespace rhetor
