// A cache of tokenised words, one a thread: text is made of few words, and a look-up costs a tenth of a segmentation. Direct-mapped, one
// cache line an entry, fixed size, no allocation after the first use: hostile text can only make it useless. Internal to the room.
#pragma once

#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "text/token_model.h"

namespace rhetor {

// Tells the token models of a process apart; never 0.
std::uint32_t next_model_serial();

class WordCache {
 public:
  static constexpr std::size_t kMaxWord = 23;   // bytes; longer words are computed every time
  static WordCache& of_this_thread() {
    thread_local const std::unique_ptr<WordCache> cache(new WordCache);
    return *cache;
  }

  // Appends the pieces of `word`: those remembered for this model, else what compute(word, out) appends. compute must be a pure function.
  template <class Compute>
  void tokenize(std::uint32_t serial, std::string_view word, std::vector<Piece>& out, Compute&& compute) {
    if (word.size() > kMaxWord) return compute(word, out);
    Entry& entry = entries_[(hash64(word) ^ serial * 0x9E3779B9u) % kEntries];
    if (entry.serial == serial && entry.length == word.size() && std::memcmp(entry.word, word.data(), word.size()) == 0) {
      std::uint32_t begin = 0;
      for (int i = 0; i < entry.count; ++i) {
        out.push_back({entry.ids[i], begin, entry.ends[i]});
        begin = entry.ends[i];
      }
      return;
    }
    const std::size_t first = out.size();
    compute(word, out);
    remember(entry, serial, word, out.data() + first, out.size() - first);
  }

 private:
  static constexpr std::size_t kEntries = 1 << 14;
  struct alignas(64) Entry {
    char word[kMaxWord];
    std::uint8_t length = 0, count = 0;
    std::uint8_t ends[7];
    std::uint32_t serial = 0;
    TokenId ids[7];
  };
  static_assert(sizeof(Entry) == 64);
  WordCache() = default;

  // Only pieces that follow each other without gap or overlap fit into an entry.
  static void remember(Entry& entry, std::uint32_t serial, std::string_view word, const Piece* pieces, std::size_t count) {
    if (count > std::size(entry.ids)) return;
    std::uint32_t begin = 0;
    for (std::size_t i = 0; i < count; ++i) {
      if (pieces[i].begin != begin) return;
      begin = pieces[i].end;
    }
    std::memcpy(entry.word, word.data(), word.size());
    entry.serial = serial;
    entry.length = static_cast<std::uint8_t>(word.size());
    entry.count = static_cast<std::uint8_t>(count);
    for (std::size_t i = 0; i < count; ++i) {
      entry.ids[i] = pieces[i].id;
      entry.ends[i] = static_cast<std::uint8_t>(pieces[i].end);
    }
  }

  std::vector<Entry> entries_{kEntries};
};

}  // namespace rhetor
