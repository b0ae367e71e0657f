#include "generate/encoder_runner.h"

#include <algorithm>
#include <iterator>
#include <numeric>

#include "base/error.h"

namespace rhetor {
namespace {

constexpr std::int64_t kBatchTokens = 2048,
                       kMostRows = 32;  // of a batch: enough to fill the cores, little enough to stay in the caches
// Activations in the sessions kept for the next caller; making one anew costs its page faults.
constexpr std::uint64_t kIdleBytes = std::uint64_t{16} << 20;

std::int64_t power_of_two_from(std::int64_t n) {
  std::int64_t p = 1;
  while (p < n) p *= 2;
  return p;
}

// Rows in the next batch when `left` are waiting: a power of two, at most a quarter of it padding.
std::int64_t batch_for(std::int64_t left, std::int64_t most) {
  const std::int64_t up = std::min(power_of_two_from(left), most);
  return 4 * left >= 3 * up ? up : up / 2;
}

void set(Session& session, const char* name, std::int64_t at, std::int32_t value) {
  session.input(name).data<std::int32_t>()[static_cast<std::size_t>(at)] = value;
}

}  // namespace

EncoderRunner::EncoderRunner(ModelPtr model, CompileOptions compile) : model_(std::move(model)), compile_(inference_options(std::move(compile))) {
  for (std::int64_t length = 16; length < model_->config.context; length *= 2) {
    lengths_.push_back(length);
    if (length >= 64) lengths_.push_back(length + length / 2);  // 96, 192, 384: a third of the padding of powers alone
  }
  while (!lengths_.empty() && lengths_.back() >= model_->config.context) lengths_.pop_back();
  lengths_.push_back(model_->config.context);
}

EncoderRunner::Slot& EncoderRunner::slot(const Key& key) const {
  std::lock_guard lock(mutex_);
  auto& slot = slots_[key];
  if (!slot) slot = std::make_unique<Slot>();
  return *slot;
}

void EncoderRunner::run(BuildSpec::Task task, std::span<const Encoding> rows, const Read& read) const {
  std::vector<std::size_t> order(rows.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return rows[a].ids.size() < rows[b].ids.size(); });
  const auto bucket = [&](std::size_t index) {
    const auto it = std::lower_bound(lengths_.begin(), lengths_.end(), static_cast<std::int64_t>(rows[index].ids.size()));
    check(it != lengths_.end(), "an encoding fits the context");
    return *it;
  };
  for (std::size_t begin = 0; begin < order.size();) {
    const std::int64_t seq = bucket(order[begin]);
    std::size_t end = begin;
    while (end < order.size() && bucket(order[end]) == seq) ++end;
    const std::int64_t most = std::clamp(power_of_two_from(kBatchTokens / seq), std::int64_t{1}, kMostRows);
    while (begin < end) {
      const std::int64_t batch = batch_for(static_cast<std::int64_t>(end - begin), most);
      const std::size_t count = std::min(static_cast<std::size_t>(batch), end - begin);
      run_batch({task, batch, seq}, rows, std::span(order).subspan(begin, count), read);
      begin += count;
    }
  }
}

void EncoderRunner::run_batch(const Key& key, std::span<const Encoding> rows, std::span<const std::size_t> order,
                              const Read& read) const {
  Slot& slot = this->slot(key);
  {
    // Compiled under the lock: a second caller that wants the same one waits for it instead of making another.
    std::lock_guard lock(slot.compiling);
    if (!slot.executable) {
      const Graph graph = build_model(model_->config, {.task = key.task, .batch = key.batch, .seq = key.seq});
      slot.executable = compile(graph, model_->weights, compile_options_for(model_->config, compile_));
    }
  }
  std::unique_ptr<Session> session = take_session(key, slot.executable);
  const Graph& graph = slot.executable->graph();
  const bool segments = graph.find_input("segments").valid(), lengths = graph.find_input("lengths").valid();
  for (std::int64_t b = 0; b < key.batch; ++b) {
    const bool real = b < static_cast<std::int64_t>(order.size());
    const Encoding empty;
    const Encoding& row = real ? rows[order[static_cast<std::size_t>(b)]] : empty;
    const auto size = static_cast<std::int64_t>(row.ids.size());
    for (std::int64_t s = 0; s < key.seq; ++s) {
      const auto at = static_cast<std::size_t>(s);
      set(*session, "tokens", b * key.seq + s, s < size ? row.ids[at] : 0);
      if (segments) {
        const std::int64_t last = model_->config.segments - 1;
        set(*session, "segments", b * key.seq + s,
            s < size ? static_cast<std::int32_t>(std::min<std::int64_t>(row.segments[at], last)) : 0);
      }
    }
    if (lengths) set(*session, "lengths", b, static_cast<std::int32_t>(std::max<std::int64_t>(size, 1)));
  }
  session->run();
  for (std::size_t b = 0; b < order.size(); ++b) read(order[b], *session, static_cast<std::int64_t>(b));
  give_back(key, std::move(session));
}

std::unique_ptr<Session> EncoderRunner::take_session(const Key& key, const ExecutablePtr& executable) const {
  {
    std::lock_guard lock(mutex_);
    const auto found = std::find_if(idle_.rbegin(), idle_.rend(), [&](const Idle& idle) { return idle.key == key; });
    if (found != idle_.rend()) {
      std::unique_ptr<Session> session = std::move(found->session);
      idle_.erase(std::next(found).base());
      return session;
    }
  }
  return std::make_unique<Session>(executable);
}

void EncoderRunner::give_back(const Key& key, std::unique_ptr<Session> session) const {
  std::vector<Idle> dropped;  // they end after the lock
  std::lock_guard lock(mutex_);
  idle_.push_back({key, std::move(session)});
  std::uint64_t bytes = 0;
  std::size_t kept = 0;
  for (auto it = idle_.rbegin(); it != idle_.rend(); ++it, ++kept) {
    bytes += it->session->executable().report().arena_bytes;
    if (bytes > kIdleBytes && kept > 0) break;
  }
  const auto first_kept = idle_.end() - static_cast<std::ptrdiff_t>(kept);
  std::move(idle_.begin(), first_kept, std::back_inserter(dropped));
  idle_.erase(idle_.begin(), first_kept);
}

}  // namespace rhetor
