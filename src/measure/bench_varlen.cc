// bench model --varlen: an encoder on sequences whose lengths are known on the host, as question answering has them. They are sorted
// and cut into batches; each batch runs in the executable of the next multiple of kStep tokens, whose recording waits for nothing: the
// lengths within a batch are data. Beside it the same set padded to --seq, as an encoder without buckets would run it.
#include <algorithm>
#include <cmath>
#include <map>

#include "base/error.h"
#include "base/rng.h"
#include "measure/bench_parts.h"
#include "measure/result.h"
#include "measure/timing.h"

namespace rhetor {
namespace {

constexpr std::int64_t kStep = 32, kSequences = 1024;

// Lognormal around 175 tokens, as SQuAD's questions with their paragraphs are, scaled to `longest` = 384.
std::vector<std::int64_t> drawn_lengths(std::int64_t count, std::int64_t longest) {
  Rng rng(23);
  std::vector<std::int64_t> lengths;
  for (std::int64_t i = 0; i < count; ++i) {
    const double length = std::exp(5.08 + 0.42 * rng.normal()) * static_cast<double>(longest) / 384;
    lengths.push_back(std::clamp<std::int64_t>(std::llround(length), std::min<std::int64_t>(8, longest), longest));
  }
  return lengths;
}

// The sum of the batches' times. Each runs once, after others have warmed its executable.
double seconds_for(const std::vector<std::int64_t>& lengths, std::int64_t batch, Session& session) {
  Tensor& input = session.input("lengths");
  const auto run = [&](std::size_t first) {
    for (std::int64_t b = 0; b < batch; ++b) input.set(b, static_cast<double>(lengths[first + static_cast<std::size_t>(b)]));
    return session.run_timed();
  };
  session.run();
  for (int warm = 0; warm < 3; ++warm) run(0);
  double sum = 0;
  for (std::size_t first = 0; first < lengths.size(); first += static_cast<std::size_t>(batch)) sum += run(first);
  return sum;
}

}  // namespace

BenchResult bench_varlen(const BenchOptions& options) {
  const ModelPtr model = open_or_invent(options);
  const ModelConfig& config = model->config;
  if (config.family != "bert") fail("--varlen measures encoders; {} is {}", options.model, config.family);
  if (options.seq > config.context)
    fail("--seq {} is longer than the context of {}, which is {}", options.seq, options.model, config.context);
  const std::int64_t batch = options.batch, count = (kSequences + batch - 1) / batch * batch;
  std::vector<std::int64_t> lengths = drawn_lengths(count, options.seq);
  std::sort(lengths.begin(), lengths.end());
  std::map<std::int64_t, std::vector<std::int64_t>> buckets;  // places a sequence -> lengths of whole batches
  std::int64_t tokens = 0, places = 0;
  for (std::size_t first = 0; first < lengths.size(); first += static_cast<std::size_t>(batch)) {
    const auto begin = lengths.begin() + static_cast<std::ptrdiff_t>(first), end = begin + batch;
    const std::int64_t seq = std::min((*(end - 1) + kStep - 1) / kStep * kStep, options.seq);
    buckets[seq].insert(buckets[seq].end(), begin, end);
    places += batch * seq;
    for (auto at = begin; at != end; ++at) tokens += *at;
  }

  const CompileOptions compile = bench_compile_options(options, config);
  double compile_ms = 0;
  const auto time = [&](std::int64_t seq, const std::vector<std::int64_t>& of) {
    const BuildSpec spec{.task = BuildSpec::Task::hidden, .batch = batch, .seq = seq};
    const ExecutablePtr exe = rhetor::compile(build_model(config, spec), model->weights, compile);
    compile_ms += exe->report().compile_ms;
    Session session(exe);
    fill_inputs(session, config.vocab, seq);
    return seconds_for(of, batch, session);
  };
  double seconds = 0;
  for (const auto& [seq, of] : buckets) seconds += time(seq, of);
  // A few batches of lengths from all over the set are enough: every place is computed whatever it holds.
  std::vector<std::int64_t> some;
  const std::size_t wanted = static_cast<std::size_t>(std::min(count, 8 * batch));
  for (std::size_t i = 0; i < wanted; ++i) some.push_back(lengths[i * lengths.size() / wanted]);
  const double padded = time(options.seq, some) * static_cast<double>(count) / static_cast<double>(some.size());

  BenchResult result =
      new_result(describe_bench(options, fmt::format("lengths up to {} batch {}", options.seq, batch)), bench_threads(options));
  result.rows.push_back({options.model,
                         {{"sequences_per_s", static_cast<double>(count) / seconds},
                          {"padded_sequences_per_s", static_cast<double>(count) / padded},
                          {"times_padded", padded / seconds},
                          {"mean_length", static_cast<double>(tokens) / static_cast<double>(count)},
                          {"filled", static_cast<double>(tokens) / static_cast<double>(places)},
                          {"executables", static_cast<std::int64_t>(buckets.size())},
                          {"compile_ms", compile_ms}}});
  return result;
}

}  // namespace rhetor
