// How data parallel ranks share what training keeps: one table, a row a strategy. Trainer, planner and help read the same rows.
//
// The names follow ZeRO (Rajbhandari et al., SC 2020): stage 1 shards the optimizer's state, 2 the gradients too, 3 the parameters too.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace rhetor {

enum class Strategy : std::uint8_t { data_parallel, zero1, zero2, zero3 };

// What a collective of a training step carries and when it may begin.
enum class Phase : std::uint8_t {
  before_forward,     // of a layer: its parameters come together just before they are read, and are dropped after
  before_backward,    // of a layer: likewise
  after_backward,     // of a bucket: when its last gradient of the last micro-batch is ready; overlaps the rest of the backward pass
  after_each_backward,  // of a bucket, after every micro-batch: no rank keeps whole gradients between them
  after_update,       // of a bucket: when the owner has updated its part; overlaps the updates of other parts
};
enum class Move : std::uint8_t { all_reduce, reduce_scatter, all_gather };

struct StrategyMove {
  Phase phase;
  Move move;
  std::string_view what;   // "gradients" or "parameters"
  // Bytes a rank sends for a buffer of B bytes are factor * (n - 1) / n * B.
  int factor;
};

struct StrategyRow {
  Strategy strategy;
  std::string_view name;    // as recipes write it
  std::string_view doc;
  bool shards_parameters, shards_gradients, shards_optimizer;
  std::span<const StrategyMove> moves;
};

std::span<const StrategyRow> strategies();
const StrategyRow& row(Strategy strategy);
// Fails with the list of names.
Strategy parse_strategy(std::string_view name);

// What training keeps for every parameter, in bytes. f32 AdamW: {4, 4, 0, 8}; bf16 with f32 master weights: {2, 2, 4, 8}.
struct StateBytes {
  double parameter = 4, gradient = 4, master = 0, moments = 8;
};
struct RankMemory {
  double parameters = 0, gradients = 0, optimizer = 0;   // bytes; optimizer: master weights and moments
  double gathered = 0;      // whole parameters of the layers in use (sharded parameters only), and their whole gradients
  double total() const { return parameters + gradients + optimizer + gathered; }
};
// Memory of one rank of `ranks`. `largest_layer`: parameters of the largest unit that is gathered at once; two are held, the next one
// comes while one computes. Activations are not in it: no strategy here divides them.
RankMemory memory_per_rank(const StrategyRow& row, const StateBytes& bytes, std::int64_t parameters, std::int64_t largest_layer, int ranks);

// Bytes a rank sends in one step of `micro_batches`.
double bytes_sent(const StrategyRow& row, const StateBytes& bytes, std::int64_t parameters, int ranks, int micro_batches);

// The first row that fits `limit` bytes beside `activations`, in the order of the table (least communication first); null if none does.
const StrategyRow* first_that_fits(double limit, double activations, const StateBytes& bytes, std::int64_t parameters,
                                   std::int64_t largest_layer, int ranks);
// "ddp 7.2 GB, zero1 3.1 GB, ..": for errors that say what would fit.
std::string memory_table(const StateBytes& bytes, std::int64_t parameters, std::int64_t largest_layer, int ranks);

}  // namespace rhetor
