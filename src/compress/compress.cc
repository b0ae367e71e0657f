#include "compress/compress.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>
#include <vector>

#include "base/error.h"
#include "eval/perplexity.h"
#include "generate/generator.h"

namespace rhetor {
namespace {

std::uint64_t weight_file_bytes(const std::filesystem::path& folder) {
  return std::filesystem::file_size(folder / "model.safetensors");
}

double median(std::vector<double>& times) {
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

// Greedy decode of a batch of one through the cache: median seconds a token.
double decode_seconds(const LanguageModel& model) {
  const std::int64_t tokens = std::min<std::int64_t>(model.config().context, 64);
  Session session(model.cached(1, 1));
  std::vector<double> times;
  TokenId id = 0;
  for (std::int64_t i = 0; i < tokens; ++i) {
    session.input("tokens").data<std::int32_t>()[0] = id;
    session.input("positions").data<std::int32_t>()[0] = static_cast<std::int32_t>(i);
    session.input("last").data<std::int32_t>()[0] = 0;
    const auto start = std::chrono::steady_clock::now();
    session.run();
    id = sample(session.output("logits").data<float>(), {.temperature = 0}, static_cast<std::uint64_t>(i));
    times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return median(times);
}

// One sequence of `tokens` through an encoder: median seconds of a run.
double encoder_seconds(const Model& model, std::int64_t tokens) {
  const BuildSpec spec{.task = BuildSpec::Task::hidden, .batch = 1, .seq = tokens};
  Session session(compile(build_model(model.config, spec), model.weights, compile_options_for(model.config)));
  session.input("lengths").data<std::int32_t>()[0] = static_cast<std::int32_t>(tokens);
  session.run();  // first touch of memory
  std::vector<double> times;
  const auto begin = std::chrono::steady_clock::now();
  while (times.size() < 5 || (times.size() < 50 && std::chrono::steady_clock::now() - begin < std::chrono::seconds(2))) {
    const auto start = std::chrono::steady_clock::now();
    session.run();
    times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return median(times);
}

// Why the loss of this model on `text` cannot be told; "" if it can.
std::string no_loss_reason(const Model& model, const std::filesystem::path& text) {
  if (text.empty()) return "no text was given";
  if (!model.tokenizer) return "the model has no tokenizer";
  if (model.config.family == "bert") {
    const Graph graph = build_model(model.config, {.task = BuildSpec::Task::pretrain});
    for (const std::int32_t node : graph.input_nodes()) {
      const std::string& name = graph.input_name(node);
      if (graph.input_kind(node) == InputKind::param && !model.weights.contains(name) && !model.weights.contains(name + ".int8"))
        return fmt::format("the model lacks its masked-token head ('{}')", name);
    }
  }
  return "";
}

struct Measured {
  double loss = std::numeric_limits<double>::quiet_NaN(), latency_ms = 0, tokens_per_s = 0;
};

// `scored`: the loss can be measured. `run_tokens` as in the report.
Measured measure(const ModelPtr& model, const std::filesystem::path& text, bool scored, std::int64_t run_tokens) {
  Measured out;
  const bool encoder = model->config.family == "bert";
  if (scored) out.loss = encoder ? masked_loss(*model, text).loss : perplexity(*model, text).loss;
  const double seconds = encoder ? encoder_seconds(*model, run_tokens) : decode_seconds(*make_language_model(model));
  out.latency_ms = seconds * 1e3;
  out.tokens_per_s = static_cast<double>(run_tokens) / seconds;
  return out;
}

}  // namespace

CompressReport compress(const std::filesystem::path& input, const std::filesystem::path& output, const std::filesystem::path& text,
                        const std::function<Model(const Model&)>& quantize) {
  std::error_code error;
  if (std::filesystem::equivalent(input, output, error)) {
    fail("the compressed model would overwrite its source '{}'; choose another output folder", input.string());
  }
  const ModelPtr before = load_model(input);
  Model small = quantize(*before);
  small.name = output.filename().empty() ? output.parent_path().filename().string() : output.filename().string();
  save_model(output, small);
  const ModelPtr after = load_model(output);  // what is measured is what is on the disk
  const bool encoder = before->config.family == "bert";
  const std::int64_t run_tokens = encoder ? std::min<std::int64_t>(before->config.context, 128) : 1;
  const std::string note = no_loss_reason(*before, text);
  const Measured a = measure(before, text, note.empty(), run_tokens), b = measure(after, text, note.empty(), run_tokens);
  return {.bytes_before = weight_file_bytes(input),
          .bytes_after = weight_file_bytes(output),
          .loss_before = a.loss,
          .loss_after = b.loss,
          .tokens_per_s_before = a.tokens_per_s,
          .tokens_per_s_after = b.tokens_per_s,
          .latency_ms_before = a.latency_ms,
          .latency_ms_after = b.latency_ms,
          .encoder = encoder,
          .run_tokens = run_tokens,
          .loss_note = note};
}

}  // namespace rhetor
