#include "text/byte_bpe.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <memory>

#include "base/error.h"
#include "base/file.h"
#include "text/pretokenize.h"

namespace rhetor {
namespace {

constexpr std::size_t kShortWord = 32;  // bytes up to which the quadratic merge is faster than the heap

// A direct-mapped cache of words a thread: text is made of few words, and merging costs ten times a look-up. One cache line an
// entry, fixed size, no allocation: hostile text can only make it useless.
struct EncodedWords {
  struct alignas(64) Entry {
    char word[22];
    std::uint8_t length = 0, count = 0;
    TokenId ids[9];
  };
  static constexpr std::size_t kEntries = 1 << 14;
  std::uint64_t owner = 0;
  std::vector<Entry> entries{kEntries};
};
static_assert(sizeof(EncodedWords::Entry) == 64);

EncodedWords& word_cache(std::uint64_t owner) {
  thread_local std::unique_ptr<EncodedWords> cache;
  if (!cache) cache = std::make_unique<EncodedWords>();
  if (cache->owner != owner) {
    for (auto& entry : cache->entries) entry.length = 0;
    cache->owner = owner;
  }
  return *cache;
}

std::uint64_t next_serial() {
  static std::atomic<std::uint64_t> counter{0};
  return counter.fetch_add(1) + 1;
}

}  // namespace

void TextMatcher::add(std::string_view text, TokenId id) {
  std::uint64_t node = 0;
  first_[static_cast<unsigned char>(text[0])] = true;
  for (const char c : text) {
    const std::uint64_t key = node << 8 | static_cast<unsigned char>(c);
    std::uint64_t child = children_.find(key);
    if (child == FlatTable::kAbsent) {
      child = nodes_++;
      children_.insert(key, child);
      ends_.push_back(-1);
    }
    node = child;
  }
  ends_[node] = id;
}

TextMatcher::Match TextMatcher::find(std::string_view text, std::size_t from) const {
  for (std::size_t begin = from; begin < text.size(); ++begin) {
    if (!first_[static_cast<unsigned char>(text[begin])]) continue;
    Match match{std::string_view::npos, 0, -1};
    std::uint64_t node = 0;
    for (std::size_t i = begin; i < text.size(); ++i) {
      node = children_.find(node << 8 | static_cast<unsigned char>(text[i]));
      if (node == FlatTable::kAbsent) break;
      if (ends_[node] >= 0) match = {begin, i + 1, ends_[node]};
    }
    if (match.id >= 0) return match;
  }
  return {std::string_view::npos, 0, -1};
}

ByteBpe::ByteBpe(BpeModel model)
    : model_(std::move(model)), pairs_(model_.merges.size()), special_(model_.tokens.size()), serial_(next_serial()) {
  for (std::size_t rank = 0; rank < model_.merges.size(); ++rank) {
    const auto& merge = model_.merges[rank];
    check(static_cast<std::size_t>(merge.result) < model_.tokens.size(), "a merge gives an id outside the vocabulary");
    pairs_.insert(pair_key(merge.left, merge.right), static_cast<std::uint64_t>(rank) << 32 | static_cast<std::uint32_t>(merge.result));
  }
  for (const auto& added : model_.added) {
    all_added_.add(added.text, added.id);
    if (!added.special) {
      plain_added_.add(added.text, added.id);
      continue;
    }
    special_[static_cast<std::size_t>(added.id)] = true;
    special_ids_.emplace(added.text, added.id);
  }
}

std::vector<TokenId> ByteBpe::encode(std::string_view text, bool specials) const {
  std::vector<TokenId> out;
  out.reserve(text.size() / 4 + 4);
  const TextMatcher& matcher = specials ? all_added_ : plain_added_;
  std::size_t at = 0;
  while (!matcher.empty()) {
    const auto match = matcher.find(text, at);
    if (match.id < 0) break;
    encode_plain(text.substr(at, match.begin - at), out);
    out.push_back(match.id);
    at = match.end;
  }
  encode_plain(text.substr(at), out);
  return out;
}

void ByteBpe::encode_plain(std::string_view text, std::vector<TokenId>& out) const {
  if (text.empty()) return;
  EncodedWords& cache = word_cache(serial_);
  WordScanner scanner(text);
  std::string_view word;
  TokenId ids[kShortWord];
  while (scanner.next(word)) {
    if (word.size() > kShortWord) {
      merge_long(word, out);
      continue;
    }
    if (word.size() > sizeof EncodedWords::Entry::word) {
      out.insert(out.end(), ids, ids + merge_short(word, ids));
      continue;
    }
    auto& entry = cache.entries[hash64(word) % EncodedWords::kEntries];
    if (entry.length != word.size() || std::memcmp(entry.word, word.data(), word.size()) != 0) {
      const int count = merge_short(word, ids);
      if (static_cast<std::size_t>(count) > std::size(entry.ids)) {
        out.insert(out.end(), ids, ids + count);
        continue;
      }
      std::memcpy(entry.word, word.data(), word.size());
      entry.length = static_cast<std::uint8_t>(word.size());
      entry.count = static_cast<std::uint8_t>(count);
      std::copy(ids, ids + count, entry.ids);
    }
    out.insert(out.end(), entry.ids, entry.ids + entry.count);
  }
}

// Always merges the best-ranked pair, of equals the leftmost. O(n^2) for n <= kShortWord bytes, with no allocation.
int ByteBpe::merge_short(std::string_view word, TokenId* ids) const {
  int count = static_cast<int>(word.size());
  for (int i = 0; i < count; ++i) ids[i] = model_.byte_ids[static_cast<unsigned char>(word[static_cast<std::size_t>(i)])];
  std::uint64_t pairs[kShortWord];  // of (ids[i], ids[i + 1]); the rank is in the upper half, so the smallest is the best
  for (int i = 0; i + 1 < count; ++i) pairs[i] = pair(ids[i], ids[i + 1]);
  while (count > 1) {
    const int best = static_cast<int>(std::min_element(pairs, pairs + count - 1) - pairs);
    if (pairs[best] == FlatTable::kAbsent) break;
    ids[best] = static_cast<TokenId>(pairs[best] & 0xffffffffu);
    std::copy(ids + best + 2, ids + count, ids + best + 1);
    std::copy(pairs + best + 1, pairs + count - 1, pairs + best);
    --count;
    if (best > 0) pairs[best - 1] = pair(ids[best - 1], ids[best]);
    if (best + 1 < count) pairs[best] = pair(ids[best], ids[best + 1]);
  }
  return count;
}

// The same result in O(n log n): a linked list of symbols and a heap of candidate merges that may be stale.
void ByteBpe::merge_long(std::string_view word, std::vector<TokenId>& out) const {
  struct Symbol {
    TokenId id;
    std::int32_t previous, next;  // -1: none
    std::uint32_t rank;           // of the pair (this, next); kNone if it does not merge
  };
  constexpr std::uint32_t kNone = 0xffffffffu;
  const auto n = static_cast<std::int32_t>(word.size());
  std::vector<Symbol> symbols(word.size());
  for (std::int32_t i = 0; i < n; ++i) {
    const auto at = static_cast<std::size_t>(i);
    symbols[at] = {model_.byte_ids[static_cast<unsigned char>(word[at])], i - 1, i + 1 < n ? i + 1 : -1, kNone};
  }
  std::vector<std::uint64_t> heap;  // rank << 32 | position, smallest on top
  const auto refresh = [&](std::int32_t at, bool ordered) {
    Symbol& s = symbols[static_cast<std::size_t>(at)];
    s.rank = s.next < 0 ? kNone : static_cast<std::uint32_t>(pair(s.id, symbols[static_cast<std::size_t>(s.next)].id) >> 32);
    if (s.rank == kNone) return;
    heap.push_back(static_cast<std::uint64_t>(s.rank) << 32 | static_cast<std::uint32_t>(at));
    if (ordered) std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  for (std::int32_t i = 0; i < n; ++i) refresh(i, false);
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const auto rank = static_cast<std::uint32_t>(heap.back() >> 32);
    const auto at = static_cast<std::int32_t>(heap.back() & 0xffffffffu);
    heap.pop_back();
    Symbol& s = symbols[static_cast<std::size_t>(at)];
    if (s.rank != rank) continue;  // merged away or changed since it was pushed
    Symbol& gone = symbols[static_cast<std::size_t>(s.next)];
    s.id = model_.merges[rank].result;
    s.next = gone.next;
    gone.rank = kNone;
    if (s.next >= 0) symbols[static_cast<std::size_t>(s.next)].previous = at;
    refresh(at, true);
    if (s.previous >= 0) refresh(s.previous, true);
  }
  for (std::int32_t i = 0; i >= 0; i = symbols[static_cast<std::size_t>(i)].next) out.push_back(symbols[static_cast<std::size_t>(i)].id);
}

std::string ByteBpe::token_bytes(TokenId id) const {
  return id < 0 || id >= vocab_size() ? std::string() : model_.tokens[static_cast<std::size_t>(id)];
}

bool ByteBpe::is_special(TokenId id) const { return id >= 0 && id < vocab_size() && special_[static_cast<std::size_t>(id)]; }

TokenId ByteBpe::special(std::string_view text) const {
  const auto found = special_ids_.find(std::string(text));
  return found == special_ids_.end() ? -1 : found->second;
}

std::vector<std::string> ByteBpe::specials() const {
  std::vector<std::string> out;
  for (const auto& added : model_.added) {
    if (added.special) out.push_back(added.text);
  }
  return out;
}

}  // namespace rhetor
