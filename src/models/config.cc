// ModelConfig: JSON, limits, presets and the size dial.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "graph/op.h"
#include "models/model.h"

namespace rhetor {
namespace {

using nlohmann::json;

struct IntField {
  const char* name;
  std::int64_t ModelConfig::* at;
  std::int64_t low, high;
};
// The highest values leave every product of two of them far below 2^63 and keep hostile files from asking for terabyte graphs.
constexpr IntField kIntFields[] = {
    {"vocab", &ModelConfig::vocab, 1, 1 << 24},       {"layers", &ModelConfig::layers, 1, 1024},
    {"hidden", &ModelConfig::hidden, 1, 1 << 17},     {"heads", &ModelConfig::heads, 1, 4096},
    {"kv_heads", &ModelConfig::kv_heads, 1, 4096},    {"ffn", &ModelConfig::ffn, 1, 1 << 20},
    {"context", &ModelConfig::context, 1, 1 << 24},   {"segments", &ModelConfig::segments, 1, 1024},
    {"labels", &ModelConfig::labels, 0, 1 << 20},
};
struct RealField {
  const char* name;
  double ModelConfig::* at;
  double low, high;
};
constexpr RealField kRealFields[] = {
    {"norm_eps", &ModelConfig::norm_eps, 0.0, 1.0},
    {"rope_theta", &ModelConfig::rope_theta, 1.0, 1e12},
    {"dropout", &ModelConfig::dropout, 0.0, 0.99},
};

struct Preset {
  const char* name;
  ModelConfig config;
};

ModelConfig gpt2(std::int64_t layers, std::int64_t hidden, std::int64_t heads, std::int64_t vocab = 50257, std::int64_t context = 1024) {
  return {.family = "gpt2", .vocab = vocab, .layers = layers, .hidden = hidden, .heads = heads, .kv_heads = heads, .ffn = 4 * hidden,
          .context = context};
}
ModelConfig llama(std::int64_t layers, std::int64_t hidden, std::int64_t heads, std::int64_t kv_heads, std::int64_t ffn,
                  std::int64_t vocab, std::int64_t context, double eps) {
  return {.family = "llama", .vocab = vocab, .layers = layers, .hidden = hidden, .heads = heads, .kv_heads = kv_heads, .ffn = ffn,
          .context = context, .norm_eps = eps, .tied_embeddings = false};
}
ModelConfig bert(std::int64_t layers, std::int64_t hidden, std::int64_t heads) {
  return {.family = "bert", .vocab = 30522, .layers = layers, .hidden = hidden, .heads = heads, .kv_heads = heads, .ffn = 4 * hidden,
          .context = 512, .norm_eps = 1e-12};
}

ModelConfig t5(std::int64_t layers, std::int64_t hidden, std::int64_t heads) {
  return {.family = "t5", .vocab = 32128, .layers = layers, .hidden = hidden, .heads = heads, .kv_heads = heads, .ffn = 4 * hidden,
          .context = 512, .norm_eps = 1e-6};
}

// Sizes as published: Radford et al. 2019; Touvron et al. 2023 (llama-1.3b: Xia et al. 2023, "Sheared LLaMA"); Devlin et al. 2019
// and Turc et al. 2019 for the small BERTs; gpt2-10m is the size that people train on one book.
const std::vector<Preset>& presets() {
  static const std::vector<Preset> list = {
      {"gpt2-tiny", gpt2(2, 64, 4, 512, 128)},
      {"gpt2-10m", gpt2(6, 384, 6, 512, 256)},
      {"gpt2", gpt2(12, 768, 12)},
      {"gpt2-124m", gpt2(12, 768, 12)},
      {"gpt2-350m", gpt2(24, 1024, 16)},
      {"gpt2-774m", gpt2(36, 1280, 20)},
      {"gpt2-1.5b", gpt2(48, 1600, 25)},
      {"gpt2-2.7b", gpt2(32, 2560, 32, 50257, 2048)},
      {"llama-tiny", llama(2, 64, 4, 2, 176, 512, 128, 1e-5)},
      {"llama-1.3b", llama(24, 2048, 16, 16, 5504, 32000, 4096, 1e-5)},
      {"llama-7b", llama(32, 4096, 32, 32, 11008, 32000, 2048, 1e-6)},
      {"bert-tiny", bert(2, 128, 2)},
      {"bert-mini", bert(4, 256, 4)},
      {"bert-base", bert(12, 768, 12)},
      {"bert-large", bert(24, 1024, 16)},
      {"t5-small", t5(6, 512, 8)},
      {"t5-base", t5(12, 768, 12)},
  };
  return list;
}

std::int64_t round_up(std::int64_t n, std::int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

template <class Names>
std::string suggestion(std::string_view word, const Names& names) {
  const std::vector<std::string_view> views(names.begin(), names.end());
  const std::string near = nearest(word, views);
  return near.empty() ? "" : fmt::format(" (did you mean '{}'?)", near);
}

template <class Names>
std::string listed(const Names& names) {
  std::string out;
  for (const auto& name : names) out.append(out.empty() ? "" : ", ").append(name);
  return out;
}

void validate_task(const ModelConfig& config) {
  if (!config.task.empty()) {
    const TaskKind* kind = find_task_kind(config.task);
    std::vector<std::string_view> names;
    for (const TaskKind& known : task_kinds()) names.push_back(known.name);
    if (!kind) fail("there is no task '{}'{}; tasks: {}", config.task, suggestion(config.task, names), listed(names));
    using Task = BuildSpec::Task;
    const bool one = kind->task == Task::choice || kind->task == Task::rank;
    if (one && config.labels != 1) fail("a {} model scores with one label, the configuration has {}", config.task, config.labels);
    if (kind->task == Task::regress && config.labels < 1) fail("a regression model needs at least one label, the configuration has none");
    if ((kind->task == Task::classify || kind->task == Task::tag) && config.labels < 2)
      fail("a {} model needs at least 2 labels, the configuration has {}", config.task, config.labels);
  }
  if (!config.label_names.empty() && static_cast<std::int64_t>(config.label_names.size()) != config.labels)
    fail("the model has {} labels but {} label names", config.labels, config.label_names.size());
}

}  // namespace

std::string ModelConfig::label_name(std::int64_t i) const {
  return label_names.empty() ? fmt::format("{}", i) : label_names.at(static_cast<std::size_t>(i));
}

std::string ModelConfig::to_json() const {
  nlohmann::ordered_json out;
  out["family"] = family;
  for (const IntField& f : kIntFields) out[f.name] = this->*f.at;
  for (const RealField& f : kRealFields) out[f.name] = this->*f.at;
  out["tied_embeddings"] = tied_embeddings;
  out["quantization"] = quantization;
  if (!task.empty()) out["task"] = task;
  if (!label_names.empty()) out["label_names"] = label_names;
  return out.dump(2) + "\n";
}

ModelConfig ModelConfig::from_json(std::string_view text, const std::string& name) {
  const json doc = json::parse(text, nullptr, false);
  if (doc.is_discarded() || !doc.is_object()) fail("{} is not a JSON object that describes a model", name);
  std::vector<std::string> known = {"family", "tied_embeddings", "quantization", "task", "label_names"};
  for (const IntField& f : kIntFields) known.emplace_back(f.name);
  for (const RealField& f : kRealFields) known.emplace_back(f.name);
  for (const auto& [key, value] : doc.items())
    if (std::find(known.begin(), known.end(), key) == known.end())
      fail("{}: unknown field \"{}\"{}", name, key.substr(0, 80), suggestion(key.substr(0, 80), known));
  ModelConfig out;
  const auto get = [&](const char* key, auto& to, bool (json::*is)() const noexcept, const char* what) {
    const auto found = doc.find(key);
    if (found == doc.end()) return;
    if (!((*found).*is)()) fail("{}: \"{}\" must be {}, found {}", name, key, what, found->dump().substr(0, 80));
    found->get_to(to);
  };
  if (!doc.contains("family")) fail("{}: the field \"family\" is missing", name);
  get("family", out.family, &json::is_string, "a text");
  for (const IntField& f : kIntFields) get(f.name, out.*f.at, &json::is_number_integer, "a whole number");
  for (const RealField& f : kRealFields) get(f.name, out.*f.at, &json::is_number, "a number");
  get("tied_embeddings", out.tied_embeddings, &json::is_boolean, "true or false");
  get("quantization", out.quantization, &json::is_string, "a text");
  get("task", out.task, &json::is_string, "a text");
  if (const auto names = doc.find("label_names"); names != doc.end()) {
    const bool texts = names->is_array() && std::all_of(names->begin(), names->end(), [](const json& n) { return n.is_string(); });
    if (!texts) fail("{}: \"label_names\" must be a list of texts, found {}", name, names->dump().substr(0, 80));
    names->get_to(out.label_names);
  }
  if (out.kv_heads == 0) out.kv_heads = out.heads;
  try {
    out.validate();
  } catch (const Error& error) {
    throw Error(error.kind(), fmt::format("{}: {}", name, error.what()));
  }
  return out;
}

void ModelConfig::validate() const {
  std::vector<std::string_view> names;
  for (const ModelFamily& f : model_families()) names.push_back(f.name);
  if (std::find(names.begin(), names.end(), family) == names.end())
    fail("there is no model family '{}'{}; families: {}", family, suggestion(family, names), listed(names));
  for (const IntField& f : kIntFields)
    if (this->*f.at < f.low || this->*f.at > f.high)
      fail("the model's \"{}\" is {}, expected {} to {}", f.name, this->*f.at, f.low, f.high);
  for (const RealField& f : kRealFields)
    if (!(this->*f.at >= f.low && this->*f.at <= f.high))
      fail("the model's \"{}\" is {}, expected {} to {}", f.name, this->*f.at, f.low, f.high);
  if (hidden % heads != 0) fail("the model's hidden size {} is not divisible by its {} heads", hidden, heads);
  if (heads % kv_heads != 0) fail("the model's {} heads are not divisible by its {} key/value heads", heads, kv_heads);
  if (kv_heads != heads && family != "llama") fail("a {} model has as many key/value heads as heads, not {} and {}", family, kv_heads, heads);
  if (family == "llama" && hidden / heads % 2 != 0)
    fail("rotary positions need an even head size; {} / {} heads gives {}", hidden, heads, hidden / heads);
  if (!quantization.empty() && quantization != kInt8 && quantization != kInt4 && quantization != kInt4Head)
    fail("the model's quantization '{}' is unknown; expected \"\", \"{}\", \"{}\" or \"{}\"", quantization, kInt8, kInt4, kInt4Head);
  validate_task(*this);
  const double parameters = static_cast<double>(layers) * static_cast<double>(hidden) * static_cast<double>(4 * hidden + 3 * ffn) +
                            static_cast<double>(vocab + context) * static_cast<double>(hidden);
  if (parameters > 1e12) fail("the model would have about {:.3g} parameters; the limit is 1e12", parameters);
}

ModelConfig size_dial(const std::string& family, std::int64_t layers, std::int64_t vocab) {
  if (layers < 1 || layers > 256) fail("the size dial goes from 1 to 256 layers, not {}", layers);
  // 64 a layer up to 12 layers (768), then a third of that: the published GPT-2s have 1024 at 24 and 1280 at 36.
  std::int64_t hidden = layers <= 12 ? 64 * layers : 768 + (layers - 12) * 64 / 3;
  hidden = round_up(hidden, 64);
  ModelConfig out{.family = family, .vocab = vocab, .layers = layers, .hidden = hidden, .heads = hidden / 64};
  out.kv_heads = out.heads;
  out.ffn = 4 * hidden;
  out.context = layers < 3 ? 128 : layers < 6 ? 256 : layers < 12 ? 512 : 1024;
  if (family == "llama") {
    out.ffn = round_up(8 * hidden / 3, 64);  // three matrices in place of two
    for (const std::int64_t group : {4, 2})
      if (out.kv_heads == out.heads && out.heads % group == 0 && out.heads > group) out.kv_heads = out.heads / group;
  }
  if (family == "bert") {
    out.context = std::min<std::int64_t>(out.context, 512);
    out.norm_eps = 1e-12;
  }
  if (family == "t5") out.norm_eps = 1e-6;
  out.validate();
  return out;
}

ModelConfig model_preset(const std::string& preset) {
  for (const Preset& p : presets())
    if (p.name == preset) return p.config;
  const std::vector<std::string> names = model_preset_names();
  fail(ErrorKind::not_found, "there is no model preset '{}'{}; presets: {}", preset, suggestion(preset, names), listed(names));
}

std::vector<std::string> model_preset_names() {
  std::vector<std::string> out;
  for (const Preset& p : presets()) out.emplace_back(p.name);
  return out;
}

}  // namespace rhetor
