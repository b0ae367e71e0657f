#include "comm/collectives.h"

#include <cstring>
#include <deque>

#include "comm/reduce.h"

namespace rhetor {
namespace {

// Up to this size everyone sends everything to everyone: one round instead of two, the same sums.
constexpr std::size_t kSmallBytes = 4096;

struct Sizes {
  std::size_t element;         // bytes
  std::int64_t segment;        // elements of a rank's part that go in one message
  explicit Sizes(const Running& r)
      : element(byte_size(r.what.dtype)),
        segment(static_cast<std::int64_t>(std::max<std::size_t>(1, r.group.transport->segment_bytes() / element))) {}
  std::size_t bytes(std::int64_t count) const { return static_cast<std::size_t>(count) * element; }
  // Piece k of a part.
  Slice piece(Slice part, std::int64_t k) const {
    return {std::min(part.end, part.begin + k * segment), std::min(part.end, part.begin + (k + 1) * segment)};
  }
  std::int64_t pieces(std::int64_t longest_part) const { return std::max<std::int64_t>(1, (longest_part + segment - 1) / segment); }
};

const std::byte* input(const Running& r) { return static_cast<const std::byte*>(r.what.in); }
std::byte* output(const Running& r) { return static_cast<std::byte*>(r.what.out); }

// Gets one piece from every other rank, to combine it with this rank's own.
class Gathering {
 public:
  // Sends `at(j)` to every rank j, and receives this rank's piece of the same length from it.
  template <class At>
  Gathering(const Running& r, const Sizes& sizes, Slice mine, At at) : r_(r), sizes_(sizes), mine_(mine), step_(r) {
    const std::size_t length = sizes.bytes(mine.count());
    if (!r.group.transport->lends()) scratch_.resize(length * static_cast<std::size_t>(r.group.size()));
    for (int hop = 1; hop < r.group.size(); ++hop) {   // not all ranks at the same one at a time
      const int to = (r.group.rank + hop) % r.group.size(), from = (r.group.rank - hop + r.group.size()) % r.group.size();
      const Slice theirs = at(to);
      step_.send(to, input(r) + sizes.bytes(theirs.begin), sizes.bytes(theirs.count()));
      std::byte* into = scratch_.empty() ? nullptr : scratch_.data() + length * static_cast<std::size_t>(from);
      step_.recv(from, into, length, true);
    }
    step_.post();
  }
  void reduce_into(std::byte* out) {
    step_.arrive();
    std::vector<const std::byte*> inputs(static_cast<std::size_t>(r_.group.size()));
    inputs[static_cast<std::size_t>(r_.group.rank)] = input(r_) + sizes_.bytes(mine_.begin);
    if (mine_.count()) {
      for (std::size_t hop = 1; hop < inputs.size(); ++hop)
        inputs[(static_cast<std::size_t>(r_.group.rank) + inputs.size() - hop) % inputs.size()] = step_.received()[hop - 1].data;
      reduce_ranks(r_.what.op, r_.what.dtype, inputs, out, mine_.count());
    }
    step_.finish();
  }

 private:
  const Running& r_;
  const Sizes& sizes_;
  Slice mine_;
  std::vector<std::byte> scratch_;
  Step step_;
};

// Sends this rank's piece of `out` to all, receives theirs.
void post_spread(Step& step, const Running& r, const Sizes& sizes, const std::function<Slice(int)>& at) {
  const Slice mine = at(r.group.rank);
  for (int hop = 1; hop < r.group.size(); ++hop) {
    const int to = (r.group.rank + hop) % r.group.size(), from = (r.group.rank - hop + r.group.size()) % r.group.size();
    step.send(to, output(r) + sizes.bytes(mine.begin), sizes.bytes(mine.count()));
    const Slice theirs = at(from);
    step.recv(from, output(r) + sizes.bytes(theirs.begin), sizes.bytes(theirs.count()));
  }
  step.post();
}

void small_all_reduce(const Running& r, const Sizes& sizes) {
  const std::size_t length = sizes.bytes(r.what.count);
  std::vector<std::byte> all(length * static_cast<std::size_t>(r.group.size()));
  std::vector<const std::byte*> inputs;
  for (int j = 0; j < r.group.size(); ++j) inputs.push_back(all.data() + length * static_cast<std::size_t>(j));
  const std::size_t own = length * static_cast<std::size_t>(r.group.rank);
  std::memcpy(all.data() + own, input(r), length);
  Step step(r);
  for (int j = 0; j < r.group.size(); ++j)
    if (j != r.group.rank) {
      step.send(j, all.data() + own, length);
      step.recv(j, all.data() + length * static_cast<std::size_t>(j), length);
    }
  step.post();
  step.arrive();
  reduce_ranks(r.what.op, r.what.dtype, inputs, output(r), r.what.count);
  step.finish();
}

void all_reduce(const Running& r) {
  const Sizes sizes(r);
  if (sizes.bytes(r.what.count) <= kSmallBytes) return small_all_reduce(r, sizes);
  const int n = r.group.size();
  const std::int64_t pieces = sizes.pieces(slice_of(r.what.count, n, 0).count());
  const auto at = [&](std::int64_t k) { return [&, k](int j) { return sizes.piece(slice_of(r.what.count, n, j), k); }; };
  std::unique_ptr<Gathering> next;
  std::unique_ptr<Step> spread;
  const auto gather = [&](std::int64_t k) { return std::make_unique<Gathering>(r, sizes, at(k)(r.group.rank), at(k)); };
  next = gather(0);
  for (std::int64_t k = 0; k < pieces; ++k) {
    const std::unique_ptr<Gathering> now = std::move(next);
    if (k + 1 < pieces) next = gather(k + 1);
    now->reduce_into(output(r) + sizes.bytes(at(k)(r.group.rank).begin));
    if (spread) {
      spread->arrive();
      spread->finish();
    }
    spread = std::make_unique<Step>(r);
    post_spread(*spread, r, sizes, at(k));
  }
  spread->arrive();
  spread->finish();
}

void reduce_scatter(const Running& r) {
  const Sizes sizes(r);
  const int n = r.group.size();
  const std::int64_t pieces = sizes.pieces(slice_of(r.what.count, n, 0).count());
  const Slice mine = slice_of(r.what.count, n, r.group.rank);
  const auto gather = [&](std::int64_t k) {
    return std::make_unique<Gathering>(r, sizes, sizes.piece(mine, k),
                                       [&](int j) { return sizes.piece(slice_of(r.what.count, n, j), k); });
  };
  std::unique_ptr<Gathering> next = gather(0);
  for (std::int64_t k = 0; k < pieces; ++k) {
    const std::unique_ptr<Gathering> now = std::move(next);
    if (k + 1 < pieces) next = gather(k + 1);
    now->reduce_into(output(r) + sizes.bytes(sizes.piece(mine, k).begin - mine.begin));
  }
}

// Two segments under way at a time.
void windowed(const Running& r, std::int64_t pieces, const std::function<void(Step&, std::int64_t)>& post) {
  std::deque<std::unique_ptr<Step>> steps;
  const auto retire = [&] {
    steps.front()->arrive();
    steps.front()->finish();
    steps.pop_front();
  };
  for (std::int64_t k = 0; k < pieces; ++k) {
    if (steps.size() == 2) retire();
    steps.push_back(std::make_unique<Step>(r));
    post(*steps.back(), k);
  }
  while (!steps.empty()) retire();
}

void spread_slices(const Running& r) {
  const Sizes sizes(r);
  const int n = r.group.size();
  windowed(r, sizes.pieces(slice_of(r.what.count, n, 0).count()), [&](Step& step, std::int64_t k) {
    post_spread(step, r, sizes, [&](int j) { return sizes.piece(slice_of(r.what.count, n, j), k); });
  });
}

void all_gather(const Running& r) {
  const Sizes sizes(r);
  const Slice mine = slice_of(r.what.count, r.group.size(), r.group.rank);
  std::byte* own = output(r) + sizes.bytes(mine.begin);
  if (own != input(r) && mine.count()) std::memmove(own, input(r), sizes.bytes(mine.count()));
  spread_slices(r);
}

// The root deals out the parts, then all ranks exchange them: the root sends the buffer twice, not size - 1 times.
void broadcast(const Running& r) {
  const Sizes sizes(r);
  const int n = r.group.size(), root = r.what.peer;
  const bool direct = n == 2 || sizes.bytes(r.what.count) <= kSmallBytes;
  const auto part = [&](int j) { return direct ? Slice{0, r.what.count} : slice_of(r.what.count, n, j); };
  windowed(r, sizes.pieces(part(0).count()), [&](Step& step, std::int64_t k) {
    for (int j = 0; j < n; ++j) {
      if (j == root || (r.group.rank != root && r.group.rank != j)) continue;
      const Slice piece = sizes.piece(part(j), k);
      if (r.group.rank == root) step.send(j, input(r) + sizes.bytes(piece.begin), sizes.bytes(piece.count()));
      else step.recv(root, output(r) + sizes.bytes(piece.begin), sizes.bytes(piece.count()));
    }
    step.post();
  });
  if (!direct) spread_slices(r);
}

void all_to_all(const Running& r) {
  const Sizes sizes(r);
  const int n = r.group.size();
  const std::int64_t block = r.what.count / n;
  const auto part = [&](int j) { return Slice{block * j, block * (j + 1)}; };
  const std::size_t own = sizes.bytes(part(r.group.rank).begin);
  if (block) std::memcpy(output(r) + own, input(r) + own, sizes.bytes(block));
  windowed(r, sizes.pieces(block), [&](Step& step, std::int64_t k) {
    for (int hop = 1; hop < n; ++hop) {
      const int to = (r.group.rank + hop) % n, from = (r.group.rank - hop + n) % n;
      const Slice out = sizes.piece(part(to), k), in = sizes.piece(part(from), k);
      step.send(to, input(r) + sizes.bytes(out.begin), sizes.bytes(out.count()));
      step.recv(from, output(r) + sizes.bytes(in.begin), sizes.bytes(in.count()));
    }
    step.post();
  });
}

void between_two(const Running& r) {
  const Sizes sizes(r);
  const Slice whole{0, r.what.count};
  windowed(r, sizes.pieces(r.what.count), [&](Step& step, std::int64_t k) {
    const Slice piece = sizes.piece(whole, k);
    if (r.what.kind == CollectiveKind::send) step.send(r.what.peer, input(r) + sizes.bytes(piece.begin), sizes.bytes(piece.count()));
    else step.recv(r.what.peer, output(r) + sizes.bytes(piece.begin), sizes.bytes(piece.count()));
    step.post();
  });
}

}  // namespace

void run_collective(const Running& running) {
  if (running.what.count == 0) return;
  switch (running.what.kind) {
    case CollectiveKind::all_reduce: return all_reduce(running);
    case CollectiveKind::reduce_scatter: return reduce_scatter(running);
    case CollectiveKind::all_gather: return all_gather(running);
    case CollectiveKind::broadcast: return broadcast(running);
    case CollectiveKind::all_to_all: return all_to_all(running);
    case CollectiveKind::send:
    case CollectiveKind::recv: return between_two(running);
    case CollectiveKind::barrier: return;
  }
}

}  // namespace rhetor
