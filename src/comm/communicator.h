// One rank's place among the ranks that work together, and the collectives between them.
//
// Invariants
//  1. All ranks of a communicator start the same collectives in the same order, with the same name, dtype, count, operation and root.
//     A difference is detected before any data moves and named on every rank.
//  2. A reduction combines the ranks in the order 0, 1, .. size - 1, element by element; narrow floats are summed in f32 and rounded
//     once. The result is a pure function of the inputs: no backend, segment size or timing changes a bit, and all ranks hold the same.
//  3. Collectives of one communicator run one after another, in the order they were started: communication is one serial channel.
//     Communicators made by split() are channels of their own.
//  4. A rank that dies, leaves, falls silent or misses a deadline fails the pending collective on all other ranks with a CommError that
//     names the rank, the collective and the tensor. Then every later call fails likewise: the way on is a restart from a checkpoint.
//
// Thread-safety: one thread at a time starts collectives on a communicator; any thread may wait. split() is not called from two threads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "tensor/dtype.h"

namespace rhetor {

enum class Reduce : std::uint8_t { sum, mean, max, min };
enum class CollectiveKind : std::uint8_t { all_reduce, reduce_scatter, all_gather, broadcast, all_to_all, send, recv, barrier };
std::string_view name(Reduce op);
std::string_view name(CollectiveKind kind);

// Elements in memory that the communicator can reach: host memory for loopback, TCP and MPI; device memory for a device backend.
struct Elements {
  void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t count = 0;
  Elements(void* d, DType t, std::int64_t n) : data(d), dtype(t), count(n) {}
  template <class T>
  Elements(std::span<T> s) : data(s.data()), dtype(dtype_v<T>), count(static_cast<std::int64_t>(s.size())) {}
};
struct ConstElements {
  const void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t count = 0;
  ConstElements(const void* d, DType t, std::int64_t n) : data(d), dtype(t), count(n) {}
  ConstElements(const Elements& e) : data(e.data), dtype(e.dtype), count(e.count) {}
  template <class T>
  ConstElements(std::span<T> s) : data(s.data()), dtype(dtype_v<std::remove_const_t<T>>), count(static_cast<std::int64_t>(s.size())) {}
};

// The part [begin, end) of `count` elements that rank r of n owns: parts of ceil(count / n), the last ones shorter or empty, so that
// padding the buffer to n equal parts moves no element.
struct Slice {
  std::int64_t begin = 0, end = 0;
  std::int64_t count() const { return end - begin; }
};
Slice slice_of(std::int64_t count, int ranks, int rank);

struct CommOptions {
  double deadline = 60;       // seconds a collective may take once it has begun
  double heartbeat = 1;       // seconds between signs of life
  double silence = 8;         // seconds without a sign of life after which a rank counts as lost
  double warn_after = 5;      // seconds of waiting after which the late rank is named in the log
  double rendezvous = 60;     // seconds in which all ranks must come together at the start
  std::size_t segment_bytes = std::size_t{512} << 10;   // bytes to a peer in one message: bounds the scratch memory
};

// A collective that failed. `rank`: the rank at fault as far as it is known, else -1.
class CommError : public Error {
 public:
  CommError(int rank, const std::string& message) : Error(ErrorKind::io, message), rank_(rank) {}
  int rank() const { return rank_; }

 private:
  int rank_;
};

// One collective as it is asked for. `count` is of the whole: the reduced, gathered or exchanged buffer (reduce_scatter's input,
// all_gather's output). `peer`: root of a broadcast, partner of a send or recv.
struct Collective {
  CollectiveKind kind = CollectiveKind::barrier;
  std::string name;               // the tensor, as errors call it
  const void* in = nullptr;
  void* out = nullptr;
  DType dtype = DType::u8;
  std::int64_t count = 0;
  Reduce op = Reduce::sum;
  int peer = -1;
  double deadline = 0;            // seconds; 0: the communicator's
  void* stream = nullptr;         // device backends: runs after what this stream holds now
};

// A started collective. Its buffers must stay until it is done. Dropping a Pending waits, without reporting an error.
class Pending {
 public:
  class State {
   public:
    virtual ~State() = default;
    virtual bool done() = 0;
    virtual void wait() = 0;                 // rethrows the collective's error, each time
    virtual void wait_on(void* stream) = 0;  // later work of the stream waits; host backends wait here
  };
  Pending() = default;
  explicit Pending(std::shared_ptr<State> state) : state_(std::move(state)) {}
  Pending(Pending&&) = default;
  Pending& operator=(Pending&& other);
  ~Pending();
  bool done() const { return !state_ || state_->done(); }
  void wait() { if (state_) state_->wait(); }
  void wait_on(void* stream) { if (state_) state_->wait_on(stream); }

 private:
  std::shared_ptr<State> state_;
};

// How one rank was waited for, as this rank saw it.
struct RankWait {
  double seconds = 0;           // waited for its arrival in all
  double longest = 0;           // the longest of these waits,
  std::string longest_name;     // and the tensor it was for
  std::int64_t last = 0;        // collectives to which it came last, after this rank
};
struct WaitStats {
  std::int64_t collectives = 0;
  double seconds = 0;           // waited for ranks that had not arrived
  std::vector<RankWait> ranks;
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  int rank() const { return rank_; }
  int size() const { return size_; }
  virtual std::string_view backend() const = 0;   // "loopback", "tcp", "mpi", ..

  // Runs a collective here and now, or starts it and returns at once.
  virtual void run(const Collective& collective) = 0;
  virtual Pending start(const Collective& collective) = 0;
  // Ranks that give the same color form a new communicator, ordered by (key, rank here). A negative color: none, returns null.
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;
  // Tells all ranks that this one gives up, and why; their pending and later collectives fail.
  virtual void abort(std::string_view why) = 0;
  virtual WaitStats waits() const = 0;

  void all_reduce(Elements data, Reduce op, std::string_view name) { run(all_reduce_of(data, op, name)); }
  Pending start_all_reduce(Elements data, Reduce op, std::string_view name) { return start(all_reduce_of(data, op, name)); }
  // out: this rank's slice_of(in.count). It may be that part of `in` itself.
  void reduce_scatter(ConstElements in, Elements out, Reduce op, std::string_view name) { run(reduce_scatter_of(in, out, op, name)); }
  Pending start_reduce_scatter(ConstElements in, Elements out, Reduce op, std::string_view name) {
    return start(reduce_scatter_of(in, out, op, name));
  }
  // in: this rank's slice_of(out.count). It may be that part of `out` itself.
  void all_gather(ConstElements in, Elements out, std::string_view name) { run(all_gather_of(in, out, name)); }
  Pending start_all_gather(ConstElements in, Elements out, std::string_view name) { return start(all_gather_of(in, out, name)); }
  void broadcast(Elements data, int root, std::string_view name) { run(broadcast_of(data, root, name)); }
  Pending start_broadcast(Elements data, int root, std::string_view name) { return start(broadcast_of(data, root, name)); }
  // `in` and `out` are `size` equal blocks; block r of `in` goes to rank r, block r of `out` comes from it. They do not overlap.
  void all_to_all(ConstElements in, Elements out, std::string_view name) { run(all_to_all_of(in, out, name)); }
  Pending start_all_to_all(ConstElements in, Elements out, std::string_view name) { return start(all_to_all_of(in, out, name)); }
  // A send may wait until its partner receives.
  void send(ConstElements data, int to, std::string_view name) { run(send_of(data, to, name)); }
  void recv(Elements data, int from, std::string_view name) { run(recv_of(data, from, name)); }
  void barrier(std::string_view name) { run({.kind = CollectiveKind::barrier, .name = std::string(name)}); }

 protected:
  Communicator(int rank, int size) : rank_(rank), size_(size) {}

 private:
  Collective all_reduce_of(Elements data, Reduce op, std::string_view name) const;
  Collective reduce_scatter_of(ConstElements in, Elements out, Reduce op, std::string_view name) const;
  Collective all_gather_of(ConstElements in, Elements out, std::string_view name) const;
  Collective broadcast_of(Elements data, int root, std::string_view name) const;
  Collective all_to_all_of(ConstElements in, Elements out, std::string_view name) const;
  Collective send_of(ConstElements data, int to, std::string_view name) const;
  Collective recv_of(Elements data, int from, std::string_view name) const;
  int rank_, size_;
};

// What all ranks saw, in one collective: for each rank the longest that any other waited for it in all. The same on every rank.
WaitStats gather_waits(Communicator& communicator);
// A sentence that names the rank the others keep waiting for, or nothing when none stands out (they waited for it a tenth of `elapsed`
// seconds or more, and twice as long as for any other).
std::string slow_rank(const WaitStats& stats, double elapsed);

}  // namespace rhetor
