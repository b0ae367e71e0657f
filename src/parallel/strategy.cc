#include "parallel/strategy.h"

#include <array>

#include "base/error.h"

namespace rhetor {
namespace {

// An all_reduce is a reduce_scatter and an all_gather: factor 2.
constexpr std::array kDataParallelMoves{StrategyMove{Phase::after_backward, Move::all_reduce, "gradients", 2}};
constexpr std::array kZero1Moves{StrategyMove{Phase::after_backward, Move::reduce_scatter, "gradients", 1},
                                 StrategyMove{Phase::after_update, Move::all_gather, "parameters", 1}};
constexpr std::array kZero2Moves{StrategyMove{Phase::after_each_backward, Move::reduce_scatter, "gradients", 1},
                                 StrategyMove{Phase::after_update, Move::all_gather, "parameters", 1}};
constexpr std::array kZero3Moves{StrategyMove{Phase::before_forward, Move::all_gather, "parameters", 1},
                                 StrategyMove{Phase::before_backward, Move::all_gather, "parameters", 1},
                                 StrategyMove{Phase::after_each_backward, Move::reduce_scatter, "gradients", 1}};

constexpr std::array kRows{
    StrategyRow{Strategy::data_parallel, "ddp", "every rank keeps everything; gradients are summed", false, false, false,
                kDataParallelMoves},
    StrategyRow{Strategy::zero1, "zero1", "each rank keeps and updates its part of the optimizer's state", false, false, true, kZero1Moves},
    StrategyRow{Strategy::zero2, "zero2", "and keeps its part of the gradients only", false, true, true, kZero2Moves},
    StrategyRow{Strategy::zero3, "zero3", "and its part of the parameters only, which come together layer by layer", true, true, true,
                kZero3Moves},
};

double per_rank(double bytes, bool sharded, int ranks) { return sharded ? bytes / ranks : bytes; }

// How often a step makes this move.
int times(Phase phase, int micro_batches) {
  return phase == Phase::after_backward || phase == Phase::after_update ? 1 : micro_batches;
}

}  // namespace

std::span<const StrategyRow> strategies() { return kRows; }

const StrategyRow& row(Strategy strategy) {
  for (const StrategyRow& one : kRows)
    if (one.strategy == strategy) return one;
  fail(ErrorKind::internal, "internal error: the strategy {} has no row", static_cast<int>(strategy));
}

Strategy parse_strategy(std::string_view name) {
  std::string known;
  for (const StrategyRow& one : kRows) {
    if (one.name == name) return one.strategy;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", one.name);
  }
  fail("'{}' is no strategy of data parallel training; known: {}", name, known);
}

RankMemory memory_per_rank(const StrategyRow& row, const StateBytes& bytes, std::int64_t parameters, std::int64_t largest_layer, int ranks) {
  const auto count = static_cast<double>(parameters), layer = static_cast<double>(largest_layer);
  RankMemory memory{.parameters = per_rank(bytes.parameter * count, row.shards_parameters, ranks),
                    .gradients = per_rank(bytes.gradient * count, row.shards_gradients, ranks),
                    .optimizer = per_rank((bytes.master + bytes.moments) * count, row.shards_optimizer, ranks)};
  if (ranks > 1 && row.shards_parameters) memory.gathered += 2 * layer * bytes.parameter;
  if (ranks > 1 && row.shards_gradients) memory.gathered += 2 * layer * bytes.gradient;
  return memory;
}

double bytes_sent(const StrategyRow& row, const StateBytes& bytes, std::int64_t parameters, int ranks, int micro_batches) {
  double sent = 0;
  for (const StrategyMove& move : row.moves) {
    const double buffer = static_cast<double>(parameters) * (move.what == "gradients" ? bytes.gradient : bytes.parameter);
    sent += move.factor * buffer * (ranks - 1) / ranks * times(move.phase, micro_batches);
  }
  return sent;
}

const StrategyRow* first_that_fits(double limit, double activations, const StateBytes& bytes, std::int64_t parameters,
                                   std::int64_t largest_layer, int ranks) {
  for (const StrategyRow& one : kRows)
    if (memory_per_rank(one, bytes, parameters, largest_layer, ranks).total() + activations <= limit) return &one;
  return nullptr;
}

std::string memory_table(const StateBytes& bytes, std::int64_t parameters, std::int64_t largest_layer, int ranks) {
  std::string text;
  for (const StrategyRow& one : kRows)
    text += fmt::format("{}{} {:.2f} GB", text.empty() ? "" : ", ", one.name,
                        memory_per_rank(one, bytes, parameters, largest_layer, ranks).total() / 1e9);
  return text;
}

}  // namespace rhetor
