#include "runtime/tune.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "graph/text.h"
#include "tensor/tensor.h"

namespace rhetor {
namespace {

// A way must be this much faster in the median of the rounds: less is noise, and the default is the one that was measured
// elsewhere.
constexpr double kWorthwhile = 0.95;
constexpr int kLeastRounds = 5, kMostRounds = 25;
constexpr double kMostSeconds = 0.7;  // a node, all ways together
// One thread can win where starting the others takes as long as the work; beyond this it only seems to, while a neighbour has a
// core.
constexpr double kAloneSeconds = 3e-4;

int from_environment() {
  const char* wish = std::getenv("RHETOR_TUNE");
  if (!wish || !*wish || !std::strcmp(wish, "cached")) return static_cast<int>(Tuning::cached);
  if (!std::strcmp(wish, "off")) return static_cast<int>(Tuning::off);
  if (!std::strcmp(wish, "measure")) return static_cast<int>(Tuning::measure);
  fail("RHETOR_TUNE is '{}', expected off, cached or measure", wish);
}
std::atomic<int> chosen_mode{-1};

bool tunable(const Node& node) {
  if (node.op->traits.kind == OpKind::contraction) return true;
  const AttrValue* anchor = node.attrs.find("anchor");
  return anchor && kind_of(*anchor) == AttrKind::text && node.attrs.has("body") &&
         std::get<std::string>(*anchor).find("matmul") == 0;
}

std::string base_name(const std::string& kernel) { return kernel.substr(0, kernel.find('/')); }

std::string text_of(const AttrValue& value) {
  return std::visit(
      [](const auto& v) -> std::string {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, DType>)
          return std::string(name(v));
        else if constexpr (std::is_same_v<T, Tensor>)
          return v.type().str();
        else if constexpr (std::is_same_v<T, GraphPtr>)
          return fmt::format("{:016x}", hash64(to_text(*v)));
        else if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string>)
          return fmt::format("{}", v);
        else
          return fmt::format("{}", fmt::join(v, ","));
      },
      value);
}

std::uint64_t key_of(const KernelRequest& r, const std::string& kernel) {
  std::string text = fmt::format("{} {} {}", kernel, r.node.op->name, r.threads);
  for (std::size_t k = 0; k < r.in.size(); ++k)
    text += fmt::format(" {}{}", r.in[k].str(), k < r.constants.size() && r.constants[k] ? "!" : "");
  for (const Type& type : r.out) text += " > " + type.str();
  for (const auto& [name, value] : r.node.attrs) text += fmt::format(" {}={}", name, text_of(value));
  return hash64(text);
}

// ---- one thread -------------------------------------------------------------------------------------
ThreadPool& single_pool() {
  static ThreadPool pool(1);
  return pool;
}
struct SingleParams {
  Kernel inner;
};
// A kernel prepared for one thread must be run by one: its scratch has room for no more.
Kernel on_one_thread(Kernel inner) {
  Kernel wrapped = inner;
  wrapped.params = std::make_shared<SingleParams>(SingleParams{std::move(inner)});
  wrapped.run = [](const void* opaque, const KernelArgs& args) {
    const Kernel& kernel = static_cast<const SingleParams*>(opaque)->inner;
    kernel.run(kernel.params.get(), {args.in, args.out, args.scratch, single_pool()});
  };
  return wrapped;
}

ChosenKernel prepare(const KernelRequest& request, const TunedWay& way) {
  KernelRequest own = request;
  if (way.threads == 1) own.threads = 1;
  ChosenKernel chosen = choose_kernel(own, way.kernel);
  if (way.threads == 1 && request.threads > 1) chosen.kernel = on_one_thread(std::move(chosen.kernel));
  return chosen;
}

// ---- measuring --------------------------------------------------------------------------------------
// Operands: what is known at compile time as it is, floats random, integers such that attention sees every key.
Tensor operand(const Type& type, std::int64_t last_key, std::uint64_t stream) {
  Tensor tensor = Tensor::uninitialized(type);
  Rng rng(17, stream);
  const std::int64_t period =
      std::min<std::int64_t>(type.elements(), 4099);  // drawing millions would take longer than the kernel
  for (std::int64_t i = 0; i < period; ++i) {
    const double u = static_cast<double>(rng.uniform());
    tensor.set(i, is_float(type.dtype)      ? 2 * u - 1
                  : type.dtype == DType::i8 ? std::floor(254 * u) - 127
                  : type.dtype == DType::u8 ? std::floor(255 * u)
                                            : static_cast<double>(last_key));
  }
  auto* bytes = static_cast<std::byte*>(tensor.raw());
  const std::size_t whole = tensor.bytes(), block = static_cast<std::size_t>(period) * byte_size(type.dtype);
  for (std::size_t at = block; at < whole; at += block) std::memcpy(bytes + at, bytes, std::min(block, whole - at));
  return tensor;
}

class Trial {
 public:
  Trial(const KernelRequest& request, ThreadPool& pool) : request_(request), pool_(pool) {
    const std::int64_t keys = request.in.size() > 1 && request.in[1].shape.rank() > 1 ? request.in[1].shape[1] : 1;
    for (std::size_t k = 0; k < request.in.size(); ++k) {
      const bool absent = k >= request.node.inputs.size() || !request.node.inputs[k].valid();
      operands_.push_back(absent || request.constants[k] ? Tensor() : operand(request.in[k], keys, k));
    }
    for (const Type& type : request.out) outputs_.push_back(Tensor::uninitialized(type));
  }

  void run(const Kernel& kernel, Tensor& scratch) {
    const void* in[32] = {};
    void* out[8] = {};
    for (std::size_t k = 0; k < operands_.size(); ++k) {
      const bool absorbed = k < kernel.absorbed.size() && kernel.absorbed[k];
      if (operands_[k].defined())
        in[k] = operands_[k].raw();
      else if (!absorbed && request_.constants[k])
        in[k] = request_.constants[k]->raw();
    }
    for (std::size_t k = 0; k < outputs_.size(); ++k) out[k] = outputs_[k].raw();
    kernel.run(kernel.params.get(), {.in = in, .out = out, .scratch = scratch.raw(), .pool = pool_});
  }

  std::vector<std::string> results() const {
    std::vector<std::string> bytes;
    for (const Tensor& tensor : outputs_) bytes.emplace_back(static_cast<const char*>(tensor.raw()), tensor.bytes());
    return bytes;
  }
  static bool fits(const KernelRequest& request) { return request.in.size() <= 32 && request.out.size() <= 8; }

 private:
  const KernelRequest& request_;
  ThreadPool& pool_;
  std::vector<Tensor> operands_, outputs_;
};

struct Timed {
  TunedWay way;
  ChosenKernel chosen;
  Tensor scratch;
  std::vector<double> seconds = {};  // a round
};

double median(std::vector<double> of) {
  std::nth_element(of.begin(), of.begin() + static_cast<std::ptrdiff_t>(of.size() / 2), of.end());
  return of[of.size() / 2];
}

// Takes from the cores' own caches what a run left there: within a model, other layers have used them since.
class Evictor {
 public:
  explicit Evictor(ThreadPool& pool) : pool_(pool), bytes_(static_cast<std::size_t>(pool.threads()) * kBytesACore, 1) {}
  void run() {
    pool_.parallel_for(static_cast<std::int64_t>(bytes_.size() / 64), static_cast<std::int64_t>(kBytesACore / 64),
                       [&](std::int64_t begin, std::int64_t end) {
                         for (std::int64_t line = begin; line < end; ++line) ++bytes_[static_cast<std::size_t>(64 * line)];
                       });
  }

 private:
  static constexpr std::size_t kBytesACore = 4 << 20;  // twice a large second-level cache
  ThreadPool& pool_;
  std::vector<unsigned char> bytes_;
};

// Can `kernel` stand in for `standard`: itself, or a variant of it that does not refuse?
bool is_way(const KernelRequest& request, const std::string& standard, const std::string& kernel) {
  if (kernel == standard) return true;
  if (base_name(kernel) != base_name(standard)) return false;
  for (const KernelRow& row : kernel_table())
    for (const Candidate& candidate : row.candidates)
      if (row.op == request.node.op->name && candidate.name == kernel) return candidate.refuse(request).empty();
  return false;
}

// Rounds go over all ways in turn, and a way is compared with the default of the same round: the speed of a machine with
// neighbours changes more from second to second than ways differ.
TunedWay measure(const KernelRequest& request, const ChosenKernel& standard, ThreadPool& pool) {
  using Clock = std::chrono::steady_clock;
  const auto seconds = [](Clock::time_point since) { return std::chrono::duration<double>(Clock::now() - since).count(); };
  std::vector<TunedWay> ways = {{.kernel = standard.name}};
  for (const KernelRow& row : kernel_table()) {
    if (row.op != request.node.op->name) continue;
    for (const Candidate& candidate : row.candidates) {
      const std::string kernel(candidate.name);
      if (kernel != standard.name && is_way(request, standard.name, kernel)) ways.push_back({.kernel = kernel});
    }
  }
  if (request.threads > 1)
    for (std::size_t i = 0, count = ways.size(); i < count; ++i) ways.push_back({.kernel = ways[i].kernel, .threads = 1});

  Trial trial(request, pool);
  std::vector<Timed> timed;
  std::vector<std::string> expected;
  double usual_once = 0;
  for (const TunedWay& way : ways) {
    Timed one{.way = way, .chosen = prepare(request, way), .scratch = {}};
    if (way.threads == 1 && usual_once > kAloneSeconds) continue;
    one.scratch = Tensor::uninitialized({DType::u8, Shape{static_cast<std::int64_t>(one.chosen.kernel.scratch_bytes)}});
    trial.run(one.chosen.kernel, one.scratch);
    if (timed.empty()) {
      const auto once = Clock::now();
      trial.run(one.chosen.kernel, one.scratch);
      usual_once = seconds(once);
    }
    if (timed.empty())
      expected = trial.results();
    else if (trial.results() != expected)
      continue;  // other bits: not the same computation
    timed.push_back(std::move(one));
  }
  Evictor evictor(pool);
  const auto begin = Clock::now();
  for (int round = 0; round < kMostRounds && (round < kLeastRounds || seconds(begin) < kMostSeconds); ++round)
    for (Timed& one : timed) {
      evictor.run();
      const auto once = Clock::now();
      trial.run(one.chosen.kernel, one.scratch);
      one.seconds.push_back(seconds(once));
    }
  const Timed& usual = timed.front();
  const Timed* best = &usual;
  double least = kWorthwhile;
  for (const Timed& one : timed) {
    std::vector<double> shares;
    for (std::size_t round = 0; round < one.seconds.size(); ++round) shares.push_back(one.seconds[round] / usual.seconds[round]);
    if (const double share = median(shares); share < least) {
      least = share;
      best = &one;
    }
  }
  TunedWay way = best->way;
  way.default_us = median(usual.seconds) * 1e6;
  way.best_us = median(best->seconds) * 1e6;
  return way;
}

}  // namespace

Tuning tuning() {
  int mode = chosen_mode.load();
  if (mode < 0) chosen_mode.store(mode = from_environment());
  return static_cast<Tuning>(mode);
}
void set_tuning(Tuning mode) { chosen_mode.store(static_cast<int>(mode)); }
void set_tuning_flags(bool tune, bool no_tune) {
  if (tune && no_tune) fail("--tune and --no-tune contradict each other; give one");
  if (tune) set_tuning(Tuning::measure);
  if (no_tune) set_tuning(Tuning::off);
}

ChosenKernel tuned(const KernelRequest& request, ChosenKernel chosen, ThreadPool& pool, Tuning mode, TuneCache& cache) {
  if (mode == Tuning::off || (mode == Tuning::cached && cache.empty()) || !tunable(request.node) || !Trial::fits(request) ||
      chosen.name == "reference")
    return chosen;
  const std::uint64_t key = key_of(request, base_name(chosen.name));
  TunedWay way;
  if (!cache.find(key, way)) {
    if (mode != Tuning::measure) return chosen;
    way = measure(request, chosen, pool);
    cache.put(key, way);
  }
  // The key is a hash and the file may be anybody's: a way that is not ours is not taken.
  if (!is_way(request, chosen.name, way.kernel)) return chosen;
  if (way.kernel == chosen.name && (way.threads == 0 || request.threads == 1)) {
    chosen.kernel.detail += fmt::format("; tuned: the default way, {:.1f} us", way.best_us);
    return chosen;
  }
  ChosenKernel better = prepare(request, way);
  better.refused = std::move(chosen.refused);
  better.kernel.detail += fmt::format("; tuned: {:.1f} us instead of {:.1f}{}", way.best_us, way.default_us,
                                      way.threads == 1 ? ", on one thread" : "");
  return better;
}

}  // namespace rhetor
