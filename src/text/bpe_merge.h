// Merging symbols by rank: the inner loop of byte-pair encoding. Always the best-ranked pair, of equals the leftmost (Sennrich et al. 2016).
// Internal to the room.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "text/hash_table.h"
#include "text/tokenizer.h"

namespace rhetor {

struct BpeSymbol {
  TokenId id;
  std::uint32_t begin, end;  // bytes of the word
};

// Pairs of ids -> rank and result. Immutable once built, so concurrent merges are safe.
class MergeTable {
 public:
  explicit MergeTable(std::size_t expected = 0) : pairs_(expected) {}
  // The first rank of a pair stays. REQUIRES: rank < 2^32 - 1
  void add(TokenId left, TokenId right, std::uint32_t rank, TokenId result) {
    pairs_.insert(pair_key(left, right), static_cast<std::uint64_t>(rank) << 32 | static_cast<std::uint32_t>(result));
  }
  // seen(left, right, result) is told every mergeable pair that comes up, in order.
  template <class Seen>
  void merge(std::vector<BpeSymbol>& symbols, Seen&& seen) const {
    if (symbols.size() > kShort) {
      merge_long(symbols, seen);
    } else if (symbols.size() > 1) {
      symbols.resize(static_cast<std::size_t>(merge_short(symbols.data(), static_cast<int>(symbols.size()), seen)));
    }
  }
  void merge(std::vector<BpeSymbol>& symbols) const {
    merge(symbols, [](TokenId, TokenId, TokenId) {});
  }
  // The same for unmerged symbols of which crossed(u, v) tells whether neighbours u | v can ever get into one symbol: each stretch by itself.
  template <class Crossed>
  void merge_stretches(std::vector<BpeSymbol>& symbols, Crossed&& crossed) const {
    const auto unseen = [](TokenId, TokenId, TokenId) {};
    thread_local std::vector<BpeSymbol> stretch;
    std::size_t kept = 0;
    for (std::size_t begin = 0, end = 0; begin < symbols.size(); begin = end) {
      for (end = begin + 1; end < symbols.size() && crossed(symbols[end - 1].id, symbols[end].id);) ++end;
      const BpeSymbol* merged = symbols.data() + begin;
      auto count = end - begin;
      if (count > kShort) {
        stretch.assign(symbols.begin() + static_cast<std::ptrdiff_t>(begin), symbols.begin() + static_cast<std::ptrdiff_t>(end));
        merge_long(stretch, unseen);
        merged = stretch.data();
        count = stretch.size();
      } else if (count > 1) {
        count = static_cast<std::size_t>(merge_short(symbols.data() + begin, static_cast<int>(count), unseen));
      }
      std::copy(merged, merged + count, symbols.data() + kept);
      kept += count;
    }
    symbols.resize(kept);
  }

  static constexpr std::size_t kShort = 32;  // symbols up to which scanning all pairs is faster than a heap

 private:
  static constexpr std::uint32_t kNone = 0xFFFFFFFFu;
  struct Found { std::uint32_t rank; TokenId result; };

  template <class Seen>
  Found find(TokenId left, TokenId right, Seen& seen) const {
    const std::uint64_t packed = pairs_.find(pair_key(left, right));
    if (packed == FlatTable::kAbsent) return {kNone, -1};
    const auto result = static_cast<TokenId>(packed & 0xFFFFFFFFu);
    seen(left, right, result);
    return {static_cast<std::uint32_t>(packed >> 32), result};
  }

  // O(n^2) for n <= kShort symbols, without allocation. Returns how many are left.
  template <class Seen>
  int merge_short(BpeSymbol* symbols, int count, Seen& seen) const {
    std::uint32_t ranks[kShort];  // of the pair (i, i + 1)
    TokenId results[kShort];
    const auto refresh = [&](int i) {
      const Found found = find(symbols[i].id, symbols[i + 1].id, seen);
      ranks[i] = found.rank;
      results[i] = found.result;
    };
    for (int i = 0; i + 1 < count; ++i) refresh(i);
    while (count > 1) {
      const int best = static_cast<int>(std::min_element(ranks, ranks + count - 1) - ranks);
      if (ranks[best] == kNone) break;
      symbols[best] = {results[best], symbols[best].begin, symbols[best + 1].end};
      std::copy(symbols + best + 2, symbols + count, symbols + best + 1);
      std::copy(ranks + best + 1, ranks + count - 1, ranks + best);
      std::copy(results + best + 1, results + count - 1, results + best);
      --count;
      if (best > 0) refresh(best - 1);
      if (best + 1 < count) refresh(best);
    }
    return count;
  }

  // The same in O(n log n): a linked list of symbols and a heap of candidate pairs that may be stale.
  template <class Seen>
  void merge_long(std::vector<BpeSymbol>& symbols, Seen& seen) const {
    struct Link {
      std::int32_t previous, next;  // -1: none
      std::uint32_t rank;           // of the pair (this, next); kNone: gone, or it does not merge
      TokenId result;
    };
    thread_local std::vector<Link> links;
    thread_local std::vector<std::uint64_t> heap;  // rank << 32 | position, smallest on top
    const auto n = static_cast<std::int32_t>(symbols.size());
    links.resize(symbols.size());
    heap.clear();
    const auto refresh = [&](std::int32_t at) {
      Link& link = links[static_cast<std::size_t>(at)];
      link.rank = kNone;
      if (link.next < 0) return false;
      const Found found = find(symbols[static_cast<std::size_t>(at)].id, symbols[static_cast<std::size_t>(link.next)].id, seen);
      link.rank = found.rank;
      link.result = found.result;
      if (found.rank == kNone) return false;
      heap.push_back(static_cast<std::uint64_t>(found.rank) << 32 | static_cast<std::uint32_t>(at));
      return true;
    };
    for (std::int32_t i = 0; i < n; ++i) {
      links[static_cast<std::size_t>(i)] = {i - 1, i + 1 < n ? i + 1 : -1, kNone, -1};
      refresh(i);
    }
    std::make_heap(heap.begin(), heap.end(), std::greater<>());
    while (!heap.empty()) {
      std::pop_heap(heap.begin(), heap.end(), std::greater<>());
      const auto rank = static_cast<std::uint32_t>(heap.back() >> 32);
      const auto at = static_cast<std::int32_t>(heap.back() & 0xFFFFFFFFu);
      heap.pop_back();
      Link& link = links[static_cast<std::size_t>(at)];
      if (link.rank != rank) continue;  // merged away or changed since it was pushed
      const auto gone = static_cast<std::size_t>(link.next);
      BpeSymbol& symbol = symbols[static_cast<std::size_t>(at)];
      symbol = {link.result, symbol.begin, symbols[gone].end};
      symbols[gone].id = kGone;
      links[gone].rank = kNone;
      link.next = links[gone].next;
      if (link.next >= 0) links[static_cast<std::size_t>(link.next)].previous = at;
      if (link.previous >= 0 && refresh(link.previous)) std::push_heap(heap.begin(), heap.end(), std::greater<>());
      if (refresh(at)) std::push_heap(heap.begin(), heap.end(), std::greater<>());
    }
    std::erase_if(symbols, [](const BpeSymbol& symbol) { return symbol.id == kGone; });
  }

  static constexpr TokenId kGone = -2;
  FlatTable pairs_;
};

}  // namespace rhetor
