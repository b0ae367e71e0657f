#include <algorithm>

#include "base/error.h"
#include "data/batches.h"
#include "data/permutation.h"

namespace rhetor {

std::int64_t lm_batches_per_epoch(std::int64_t tokens, std::int64_t batch, std::int64_t seq) {
  return std::max<std::int64_t>(1, tokens / seq / batch);
}

// The tokens are a ring cut into T / S windows; each epoch turns the ring by a random shift and shuffles the windows. Rows are
// numbered without end: row g is window g mod W of epoch g / W, and batch i of rank r has the rows from (i * ranks + r) * B on, so
// any split of a global batch over ranks sees the same rows.
LmBatch lm_batch(const std::vector<TokenId>& tokens, std::int64_t batch, std::int64_t seq, std::uint64_t seed, std::uint64_t index, int rank,
                 int ranks) {
  check(batch > 0 && seq > 0 && rank >= 0 && rank < ranks, "lm_batch: batch, seq, rank or ranks out of range");
  if (tokens.size() < 2) fail("the text has {} tokens; next-token training needs at least 2", tokens.size());
  const auto total = static_cast<std::uint64_t>(tokens.size());
  const auto windows = std::max<std::uint64_t>(1, total / static_cast<std::uint64_t>(seq));
  LmBatch out{Tensor::uninitialized({DType::i32, Shape{batch, seq}}), Tensor::uninitialized({DType::i32, Shape{batch, seq}})};
  auto inputs = out.inputs.data<std::int32_t>();
  auto targets = out.targets.data<std::int32_t>();
  const std::uint64_t first = (index * static_cast<std::uint64_t>(ranks) + static_cast<std::uint64_t>(rank)) * static_cast<std::uint64_t>(batch);
  for (std::int64_t row = 0; row < batch; ++row) {
    const std::uint64_t number = first + static_cast<std::uint64_t>(row);
    const std::uint64_t epoch = number / windows;
    const std::uint64_t window = permuted(number % windows, windows, seed, 2 * epoch);
    const std::uint64_t shift = Rng(seed, 2 * epoch + 1).below(total);
    std::uint64_t at = (shift + window * static_cast<std::uint64_t>(seq)) % total;
    for (std::int64_t i = 0; i < seq; ++i) {
      const auto to = static_cast<std::size_t>(row * seq + i);
      inputs[to] = tokens[at];
      at = at + 1 == total ? 0 : at + 1;
      targets[to] = tokens[at];
    }
  }
  return out;
}

}  // namespace rhetor
