#include "comm/communicator.h"

#include <algorithm>
#include <array>

namespace rhetor {

std::string_view name(Reduce op) {
  constexpr std::array<std::string_view, 4> names{"sum", "mean", "max", "min"};
  return static_cast<std::size_t>(op) < names.size() ? names[static_cast<std::size_t>(op)] : "?";
}

std::string_view name(CollectiveKind kind) {
  constexpr std::array<std::string_view, 8> names{"all_reduce", "reduce_scatter", "all_gather", "broadcast",
                                                  "all_to_all", "send", "recv", "barrier"};
  return static_cast<std::size_t>(kind) < names.size() ? names[static_cast<std::size_t>(kind)] : "?";
}

Slice slice_of(std::int64_t count, int ranks, int rank) {
  const std::int64_t part = (count + ranks - 1) / ranks;
  return {std::min(count, part * rank), std::min(count, part * (rank + 1))};
}

Pending& Pending::operator=(Pending&& other) {
  if (this != &other) {
    Pending old(std::move(state_));
    state_ = std::move(other.state_);
  }
  return *this;
}

Pending::~Pending() {
  if (!state_) return;
  try {
    state_->wait();
  } catch (const std::exception&) {
    // Whoever cares has waited; here it is only about the buffers.
  }
}

namespace {
void same_dtype(CollectiveKind kind, std::string_view tensor, DType in, DType out) {
  if (in != out) fail("{} of '{}': the input is {}, the output {}; they must agree", name(kind), tensor, name(in), name(out));
}
void same_count(CollectiveKind kind, std::string_view tensor, std::string_view what, std::int64_t expected, std::int64_t found) {
  if (expected != found) fail("{} of '{}': {} must hold {} elements, it holds {}", name(kind), tensor, what, expected, found);
}
void known_rank(CollectiveKind kind, std::string_view tensor, int peer, int size) {
  if (peer < 0 || peer >= size) fail("{} of '{}': there is no rank {}, ranks go from 0 to {}", name(kind), tensor, peer, size - 1);
}
}  // namespace

Collective Communicator::all_reduce_of(Elements data, Reduce op, std::string_view name) const {
  return {.kind = CollectiveKind::all_reduce, .name = std::string(name), .in = data.data, .out = data.data, .dtype = data.dtype,
          .count = data.count, .op = op};
}

Collective Communicator::reduce_scatter_of(ConstElements in, Elements out, Reduce op, std::string_view name) const {
  same_dtype(CollectiveKind::reduce_scatter, name, in.dtype, out.dtype);
  same_count(CollectiveKind::reduce_scatter, name, "the output", slice_of(in.count, size_, rank_).count(), out.count);
  return {.kind = CollectiveKind::reduce_scatter, .name = std::string(name), .in = in.data, .out = out.data, .dtype = in.dtype,
          .count = in.count, .op = op};
}

Collective Communicator::all_gather_of(ConstElements in, Elements out, std::string_view name) const {
  same_dtype(CollectiveKind::all_gather, name, in.dtype, out.dtype);
  same_count(CollectiveKind::all_gather, name, "the input", slice_of(out.count, size_, rank_).count(), in.count);
  return {.kind = CollectiveKind::all_gather, .name = std::string(name), .in = in.data, .out = out.data, .dtype = in.dtype,
          .count = out.count};
}

Collective Communicator::broadcast_of(Elements data, int root, std::string_view name) const {
  known_rank(CollectiveKind::broadcast, name, root, size_);
  return {.kind = CollectiveKind::broadcast, .name = std::string(name), .in = data.data, .out = data.data, .dtype = data.dtype,
          .count = data.count, .peer = root};
}

Collective Communicator::all_to_all_of(ConstElements in, Elements out, std::string_view name) const {
  same_dtype(CollectiveKind::all_to_all, name, in.dtype, out.dtype);
  same_count(CollectiveKind::all_to_all, name, "the output", in.count, out.count);
  if (in.count % size_) fail("all_to_all of '{}': {} elements do not divide into {} equal blocks", name, in.count, size_);
  return {.kind = CollectiveKind::all_to_all, .name = std::string(name), .in = in.data, .out = out.data, .dtype = in.dtype,
          .count = in.count};
}

Collective Communicator::send_of(ConstElements data, int to, std::string_view name) const {
  known_rank(CollectiveKind::send, name, to, size_);
  if (to == rank_) fail("send of '{}': rank {} cannot send to itself", name, to);
  return {.kind = CollectiveKind::send, .name = std::string(name), .in = data.data, .dtype = data.dtype, .count = data.count,
          .peer = to};
}

Collective Communicator::recv_of(Elements data, int from, std::string_view name) const {
  known_rank(CollectiveKind::recv, name, from, size_);
  if (from == rank_) fail("recv of '{}': rank {} cannot receive from itself", name, from);
  return {.kind = CollectiveKind::recv, .name = std::string(name), .out = data.data, .dtype = data.dtype, .count = data.count,
          .peer = from};
}

WaitStats gather_waits(Communicator& communicator) {
  WaitStats stats = communicator.waits();
  const auto size = static_cast<std::size_t>(communicator.size());
  std::vector<double> seen(size * 3);
  for (std::size_t r = 0; r < size; ++r) {
    seen[r] = stats.ranks[r].seconds;
    seen[size + r] = stats.ranks[r].longest;
    seen[2 * size + r] = static_cast<double>(stats.ranks[r].last);
  }
  communicator.all_reduce(std::span(seen), Reduce::max, "wait statistics");
  double most = 0;
  for (std::size_t r = 0; r < size; ++r) {
    stats.ranks[r] = {.seconds = seen[r], .longest = seen[size + r], .last = static_cast<std::int64_t>(seen[2 * size + r])};
    most = std::max(most, seen[r]);
  }
  stats.seconds = most;
  return stats;
}

std::string slow_rank(const WaitStats& stats, double elapsed) {
  if (stats.ranks.empty() || stats.collectives == 0) return "";
  const auto worst = std::max_element(stats.ranks.begin(), stats.ranks.end(),
                                      [](const RankWait& a, const RankWait& b) { return a.seconds < b.seconds; });
  double next = 0;
  for (const RankWait& rank : stats.ranks)
    if (&rank != &*worst) next = std::max(next, rank.seconds);
  if (worst->seconds < 2 * next || worst->seconds < 0.1 * elapsed) return "";
  return fmt::format("rank {} is slow: the others waited {:.2f} s of {:.2f} s for it (it came last to {} of {} collectives, "
                     "at worst by {:.0f} ms)",
                     worst - stats.ranks.begin(), worst->seconds, elapsed, worst->last, stats.collectives, worst->longest * 1e3);
}

}  // namespace rhetor
