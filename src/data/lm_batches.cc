#include <algorithm>

#include "base/error.h"
#include "base/rng.h"
#include "data/batches.h"
#include "data/permutation.h"

namespace rhetor {

LmBatch empty_lm_batch(std::int64_t batch, std::int64_t seq) {
  return {Tensor::uninitialized({DType::i32, Shape{batch, seq}}), Tensor::uninitialized({DType::i32, Shape{batch, seq}})};
}

std::int64_t lm_batches_per_epoch(std::int64_t tokens, std::int64_t batch, std::int64_t seq) {
  return std::max<std::int64_t>(1, tokens / seq / batch);
}

// The text is a ring cut into W = T / seq windows; every epoch shifts the cuts, so that no token always stands at a window's
// edge, and visits the windows in another order. Row g is window g mod W of epoch g / W.
void lm_row(const TokenView& tokens, std::int64_t seq, std::uint64_t seed, std::uint64_t number, std::span<std::int32_t> inputs,
            std::span<std::int32_t> targets) {
  const auto total = static_cast<std::uint64_t>(tokens.tokens());
  const auto windows = std::max<std::uint64_t>(1, total / static_cast<std::uint64_t>(seq));
  const std::uint64_t epoch = number / windows;
  const std::uint64_t window = permuted(number % windows, windows, seed, 2 * epoch);
  const std::uint64_t shift = Rng(seed, 2 * epoch + 1).below(total);
  const auto at = static_cast<std::int64_t>((shift + window * static_cast<std::uint64_t>(seq)) % total);
  tokens.copy(at, seq, inputs.data());
  std::copy(inputs.begin() + 1, inputs.end(), targets.begin());
  targets.back() = tokens[(at + seq) % tokens.tokens()];
}

void packed_row(const TokenView& tokens, const Packing& packing, TokenId pad, std::uint64_t seed, std::uint64_t number,
                std::span<std::int32_t> inputs, std::span<std::int32_t> targets) {
  const auto sequences = static_cast<std::uint64_t>(packing.sequences());
  const std::uint64_t epoch = number / sequences;
  const std::uint64_t sequence = permuted(number % sequences, sequences, seed, 2 * epoch);
  std::fill(inputs.begin(), inputs.end(), pad);
  std::fill(targets.begin(), targets.end(), -100);
  std::size_t at = 0;
  for (const PackedPiece& piece : packing.sequence(static_cast<std::int64_t>(sequence))) {
    const auto length = static_cast<std::size_t>(piece.length);
    tokens.copy(piece.begin, piece.length, inputs.data() + at);
    std::copy_n(inputs.begin() + static_cast<std::ptrdiff_t>(at) + 1, length - 1,
                targets.begin() + static_cast<std::ptrdiff_t>(at));
    if (!piece.last) targets[at + length - 1] = tokens[piece.begin + piece.length];
    at += length;
  }
}

LmBatch lm_batch(const TokenView& tokens, std::int64_t batch, std::int64_t seq, std::uint64_t seed, std::uint64_t index, int rank,
                 int ranks) {
  check(batch > 0 && seq > 0 && rank >= 0 && rank < ranks, "lm_batch: batch, seq, rank or ranks out of range");
  if (tokens.tokens() < 2) fail("the text has {} tokens; next-token training needs at least 2", tokens.tokens());
  LmBatch out = empty_lm_batch(batch, seq);
  auto inputs = out.inputs.data<std::int32_t>(), targets = out.targets.data<std::int32_t>();
  const std::uint64_t first =
      (index * static_cast<std::uint64_t>(ranks) + static_cast<std::uint64_t>(rank)) * static_cast<std::uint64_t>(batch);
  const auto width = static_cast<std::size_t>(seq);
  for (std::size_t row = 0; row < static_cast<std::size_t>(batch); ++row)
    lm_row(tokens, seq, seed, first + row, inputs.subspan(row * width, width), targets.subspan(row * width, width));
  return out;
}

LmBatch lm_batch(const std::vector<TokenId>& tokens, std::int64_t batch, std::int64_t seq, std::uint64_t seed,
                 std::uint64_t index, int rank, int ranks) {
  return lm_batch(TokenView(tokens, {}), batch, seq, seed, index, rank, ranks);
}

}  // namespace rhetor
