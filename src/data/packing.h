// Documents laid into sequences of a fixed length without cutting those that fit.
// Thread-safety: immutable.
#pragma once

#include <cstdint>
#include <vector>

#include "data/token_view.h"

namespace rhetor {

// A run of tokens of one document.
struct PackedPiece {
  std::int64_t begin = 0, length = 0;
  bool last = false;   // the document ends with it
};

// Best-fit decreasing: the longest first, each into the fullest sequence that still has room. A document longer than a sequence
// is cut into full ones and a rest. With `alone`, every piece has a sequence to itself.
class Packing {
 public:
  Packing(const TokenView& tokens, std::int64_t seq, bool alone);
  std::int64_t sequences() const { return static_cast<std::int64_t>(first_.size()) - 1; }
  // Of all places, the share that holds a token.
  double filled() const;
  std::vector<PackedPiece> sequence(std::int64_t i) const;

 private:
  // A piece by its document and number: its place and length follow.
  struct Item {
    std::int64_t document;
    std::int32_t piece;
  };
  PackedPiece piece_of(Item item) const;
  TokenView tokens_;
  std::int64_t seq_;
  std::vector<Item> items_;            // sequence after sequence
  std::vector<std::int64_t> first_;    // sequence i holds items [first_[i], first_[i+1])
};

}  // namespace rhetor
