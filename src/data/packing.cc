#include "data/packing.h"

#include <algorithm>
#include <numeric>
#include <cstdint>
#include <set>

#include "base/error.h"

namespace rhetor {

PackedPiece Packing::piece_of(Item item) const {
  const std::int64_t begin = tokens_.begin_of(item.document) + item.piece * seq_, end = tokens_.end_of(item.document);
  const std::int64_t length = std::min(seq_, end - begin);
  return {begin, length, begin + length == end};
}

Packing::Packing(const TokenView& tokens, std::int64_t seq, bool alone) : tokens_(tokens), seq_(seq) {
  std::vector<Item> pieces;
  for (std::int64_t d = 0; d < tokens_.documents(); ++d) {
    const std::int64_t length = tokens_.end_of(d) - tokens_.begin_of(d);
    for (std::int64_t p = 0; p * seq_ < length; ++p) {
      if (p > INT32_MAX) fail("a document has {} tokens, too many for sequences of {}", length, seq_);
      pieces.push_back({d, static_cast<std::int32_t>(p)});
    }
  }
  const auto length_of = [&](const Item& item) { return piece_of(item).length; };
  std::vector<std::int64_t> bin(pieces.size());   // of each piece
  std::int64_t bins = 0;
  if (alone) {
    std::iota(bin.begin(), bin.end(), std::int64_t{0});
    bins = static_cast<std::int64_t>(pieces.size());
  } else {
    // Counting sort by length: by_length[n] are the pieces of n tokens. open[r]: sequences with room for r more.
    std::vector<std::vector<std::int64_t>> by_length(static_cast<std::size_t>(seq_ + 1)),
        open(static_cast<std::size_t>(seq_ + 1));
    for (std::size_t i = 0; i < pieces.size(); ++i)
      by_length[static_cast<std::size_t>(length_of(pieces[i]))].push_back(static_cast<std::int64_t>(i));
    std::set<std::int64_t> rooms;   // r with open[r] not empty
    for (std::int64_t length = seq_; length > 0; --length) {
      for (const std::int64_t i : by_length[static_cast<std::size_t>(length)]) {
        const auto fits = rooms.lower_bound(length);
        std::int64_t room = seq_, to = bins;
        if (fits == rooms.end()) {
          ++bins;
        } else {
          room = *fits;
          auto& from = open[static_cast<std::size_t>(room)];
          to = from.back();
          from.pop_back();
          if (from.empty()) rooms.erase(fits);
        }
        bin[static_cast<std::size_t>(i)] = to;
        if (room > length) {
          open[static_cast<std::size_t>(room - length)].push_back(to);
          rooms.insert(room - length);
        }
      }
    }
  }
  // Counting sort by sequence; in one, documents stay in their order.
  first_.assign(static_cast<std::size_t>(bins + 1), 0);
  for (const std::int64_t b : bin) ++first_[static_cast<std::size_t>(b + 1)];
  std::partial_sum(first_.begin(), first_.end(), first_.begin());
  std::vector<std::int64_t> at(first_.begin(), first_.end());
  items_.resize(pieces.size());
  for (std::size_t i = 0; i < pieces.size(); ++i)
    items_[static_cast<std::size_t>(at[static_cast<std::size_t>(bin[i])]++)] = pieces[i];
}

double Packing::filled() const {
  return sequences() == 0
             ? 0
             : static_cast<double>(tokens_.tokens()) / (static_cast<double>(sequences()) * static_cast<double>(seq_));
}

std::vector<PackedPiece> Packing::sequence(std::int64_t i) const {
  std::vector<PackedPiece> out;
  for (std::int64_t k = first_[static_cast<std::size_t>(i)]; k < first_[static_cast<std::size_t>(i + 1)]; ++k)
    out.push_back(piece_of(items_[static_cast<std::size_t>(k)]));
  return out;
}

}  // namespace rhetor
