// Adapter folders in PEFT's names, and merging them into their base.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/thread_pool.h"
#include "models/lora.h"
#include "tensor/safetensors.h"

namespace rhetor {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kAdapterConfig = "adapter_config.json";
constexpr const char* kAdapterWeights = "adapter_model.safetensors";
constexpr std::string_view kPrefix = "base_model.model.", kGptPrefix = "transformer.";
constexpr std::uint64_t kAdapterConfigLimit = 1 << 20;
constexpr int kDeepest = 8;  // adapters of adapters; more is a folder that names itself

// Hugging Face's GPT-2 has its blocks under "transformer.", our files do not.
std::string peft_name(const ModelConfig& config, const std::string& ours) {
  const bool gpt = config.family == "gpt2" && !is_head_weight(ours) && !ours.starts_with("lm_head.");
  return std::string(kPrefix) + (gpt ? std::string(kGptPrefix) : "") + ours;
}
std::string our_name(std::string_view peft) {
  if (peft.starts_with(kPrefix)) peft.remove_prefix(kPrefix.size());
  if (peft.starts_with(kGptPrefix)) peft.remove_prefix(kGptPrefix.size());
  return std::string(peft);
}

// PEFT's task types, where it has one.
const char* task_type(const ModelConfig& config) {
  const TaskKind* kind = find_task_kind(config.task);
  using Task = BuildSpec::Task;
  if (!kind) return config.family == "bert" ? nullptr : config.family == "t5" ? "SEQ_2_SEQ_LM" : "CAUSAL_LM";
  if (kind->task == Task::span) return "QUESTION_ANS";
  if (kind->task == Task::tag) return "TOKEN_CLS";
  if (kind->task == Task::embed) return "FEATURE_EXTRACTION";
  return "SEQ_CLS";
}

// The adapted layers, "attn.c_attn" for "h.3.attn.c_attn": PEFT matches the ends of names.
std::vector<std::string> target_modules(const Weights& weights) {
  std::vector<std::string> out;
  for (const auto& [name, tensor] : weights) {
    const std::size_t end = name.find(".lora_A.weight");
    if (end == std::string::npos) continue;
    const std::size_t dot = name.rfind('.', end - 1);
    const std::string last = name.substr(dot + 1, end - dot - 1);
    if (std::find(out.begin(), out.end(), last) == out.end()) out.push_back(last);
  }
  return out;
}

json parse_config(const fs::path& path) {
  const json doc = json::parse(read_file(path, kAdapterConfigLimit), nullptr, false);
  if (doc.is_discarded() || !doc.is_object()) fail("'{}' is not a JSON object that describes an adapter", path.string());
  if (doc.value("peft_type", json("LORA")) != json("LORA"))
    fail("'{}': peft_type is {}; only LORA adapters can be read", path.string(), doc["peft_type"].dump().substr(0, 40));
  // What would change the merged weights and is not computed here must not be passed over.
  for (const char* key : {"use_rslora", "use_dora"})
    if (const auto found = doc.find(key); found != doc.end() && *found == json(true))
      fail("'{}': {} is true; only plain LoRA adapters can be read", path.string(), key);
  for (const char* key : {"rank_pattern", "alpha_pattern"})
    if (const auto found = doc.find(key); found != doc.end() && found->is_object() && !found->empty())
      fail("'{}': {} gives layers ranks or factors of their own; only one for all can be read", path.string(), key);
  if (const auto bias = doc.find("bias"); bias != doc.end() && *bias != json("none"))
    fail("'{}': bias is {}; only adapters that leave biases alone (\"none\") can be read", path.string(), bias->dump().substr(0, 40));
  return doc;
}

// to += factor B A, where `to` is [out,in] or, transposed, [in,out].
void add_product(Tensor& to, const Tensor& a, const Tensor& b, double factor, bool in_out) {
  const std::int64_t rank = a.shape()[0], in = a.shape()[1], out = b.shape()[0];
  const auto from_a = a.data<float>(), from_b = b.data<float>();
  auto w = to.data<float>();
  default_pool().parallel_for(out, 8, [&](std::int64_t begin, std::int64_t end) {
    std::vector<double> row(static_cast<std::size_t>(in));
    for (std::int64_t o = begin; o < end; ++o) {
      std::fill(row.begin(), row.end(), 0.0);
      for (std::int64_t r = 0; r < rank; ++r) {
        const double scale = factor * static_cast<double>(from_b[static_cast<std::size_t>(o * rank + r)]);
        const float* line = from_a.data() + r * in;
        for (std::int64_t i = 0; i < in; ++i) row[static_cast<std::size_t>(i)] += scale * static_cast<double>(line[i]);
      }
      for (std::int64_t i = 0; i < in; ++i) {
        float& at = w[static_cast<std::size_t>(in_out ? i * out + o : o * in + i)];
        at = static_cast<float>(static_cast<double>(at) + row[static_cast<std::size_t>(i)]);
      }
    }
  });
}

ModelPtr load_base(const fs::path& folder, const Adapter& adapter, int depth);

ModelPtr load_merged_at(const fs::path& folder, ModelPtr base, int depth) {
  const Adapter adapter = load_adapter(folder);
  const bool given = base != nullptr;
  if (!given) base = load_base(folder, adapter, depth);
  if (!adapter.base_hash.empty() && weights_hash(base->weights) != adapter.base_hash) {
    fail("'{}' was trained on other weights than those of '{}'; {}", folder.string(), given ? base->name : adapter.base,
         given ? "give the model it was trained on" : "the folder has changed since: give the former one with 'rhetor merge --base'");
  }
  auto model = std::make_shared<Model>(merge_adapter(*base, adapter));
  if (fs::exists(folder / "tokenizer.json")) model->tokenizer = load_tokenizer(folder / "tokenizer.json");
  model->name = fs::absolute(folder).lexically_normal().filename().string();
  return model;
}

ModelPtr load_base(const fs::path& folder, const Adapter& adapter, int depth) {
  if (adapter.base.empty())
    fail("'{}' does not say which model it adapts; give it with 'rhetor merge --base'", (folder / kAdapterConfig).string());
  if (depth >= kDeepest) fail("'{}': more than {} adapters rest on one another", folder.string(), kDeepest);
  // As it stands, or from the adapter's own place: folders that moved together find each other.
  for (const fs::path& path : {fs::path(adapter.base), folder / adapter.base}) {
    std::error_code ignored;
    if (!fs::is_directory(path, ignored)) continue;
    return is_adapter_folder(path) ? load_merged_at(path, nullptr, depth + 1) : load_model(path);
  }
  fail(ErrorKind::not_found, "the adapter '{}' rests on the model '{}', which is not there; give it with 'rhetor merge --base'",
       folder.string(), adapter.base);
}

}  // namespace

std::string weights_hash(const Weights& weights) {
  std::uint64_t hash = 0;
  for (const auto& [name, tensor] : weights) {
    const std::vector<std::int64_t> sizes = tensor.shape().sizes();
    hash = hash64(fmt::format("{} {}", name, rhetor::name(tensor.dtype())), hash);
    hash = hash64(std::as_bytes(std::span(sizes)), hash);
    hash = hash64(std::span(static_cast<const std::byte*>(tensor.raw()), tensor.bytes()), hash);
  }
  return fmt::format("{:016x}", hash);
}

bool is_adapter_folder(const fs::path& folder) {
  std::error_code ignored;
  return fs::exists(folder / kAdapterConfig, ignored);
}

void save_adapter(const fs::path& folder, const Adapter& adapter, const Tokenizer* tokenizer) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail(ErrorKind::io, "cannot make the folder '{}': {}", folder.string(), error.message());
  fs::remove(folder / kAdapterConfig, error);
  remove_stale_temporaries(folder);
  std::map<std::string, Tensor> named;
  std::vector<std::string> saved;  // whole modules
  for (const auto& [name, tensor] : adapter.weights) {
    named.emplace(peft_name(adapter.config, name), tensor);
    const std::string module = name.substr(0, name.rfind('.'));
    const bool whole = name.find(".lora_") == std::string::npos;
    if (whole && std::find(saved.begin(), saved.end(), module) == saved.end()) saved.push_back(module);
  }
  save_safetensors(folder / kAdapterWeights, named, {{"format", "pt"}, {"base_xxh3", adapter.base_hash}});
  if (tokenizer) tokenizer->save(folder / "tokenizer.json");
  write_file_atomic(folder / "config.json", adapter.config.to_json());
  const LoraOptions& o = adapter.options;
  nlohmann::ordered_json out;
  out["peft_type"] = "LORA";
  out["base_model_name_or_path"] = adapter.base;
  out["r"] = o.rank;
  out["lora_alpha"] = o.factor() * static_cast<double>(o.rank);
  out["lora_dropout"] = o.dropout;
  out["target_modules"] = target_modules(adapter.weights);
  if (saved.empty()) out["modules_to_save"] = nullptr;
  else out["modules_to_save"] = saved;
  // GPT-2's linear layers hold [in,out].
  out["fan_in_fan_out"] = adapter.config.family == "gpt2";
  out["bias"] = "none";
  if (const char* type = task_type(adapter.config)) out["task_type"] = type;
  else out["task_type"] = nullptr;
  out["init_lora_weights"] = true;
  out["inference_mode"] = true;
  write_file_atomic(folder / kAdapterConfig, out.dump(2) + "\n");
  flush_folder(folder);
}

Adapter load_adapter(const fs::path& folder) {
  const fs::path path = folder / kAdapterConfig;
  const json doc = parse_config(path);
  Adapter out;
  const auto number = [&](const char* key, double fallback) {
    const auto found = doc.find(key);
    if (found == doc.end()) return fallback;
    if (!found->is_number()) fail("'{}': \"{}\" must be a number, found {}", path.string(), key, found->dump().substr(0, 80));
    return found->get<double>();
  };
  const double rank = number("r", 8);
  if (!(rank >= 1 && rank <= 1 << 16)) fail("'{}': \"r\" must be from 1 to 65536, found {}", path.string(), rank);
  out.options.rank = static_cast<std::int64_t>(rank);
  out.options.alpha = number("lora_alpha", 8);
  out.options.dropout = number("lora_dropout", 0);
  if (!(out.options.alpha > 0)) fail("'{}': \"lora_alpha\" must be positive, found {}", path.string(), out.options.alpha);
  if (const auto base = doc.find("base_model_name_or_path"); base != doc.end() && base->is_string()) out.base = base->get<std::string>();
  if (fs::exists(folder / "config.json"))
    out.config = ModelConfig::from_json(read_file(folder / "config.json", kAdapterConfigLimit), "'" + (folder / "config.json").string() + "'");
  else
    out.config.layers = 0;  // a PEFT folder: the base's own
  const Safetensors file = load_safetensors(folder / kAdapterWeights);
  if (const auto hash = file.metadata.find("base_xxh3"); hash != file.metadata.end()) out.base_hash = hash->second;
  for (const auto& [name, tensor] : file.tensors) {
    if (!is_float(tensor.dtype()))
      fail("'{}': the tensor '{}' is {}, expected floats", (folder / kAdapterWeights).string(), name, tensor.type().str());
    out.weights.emplace(our_name(name), tensor.dtype() == DType::f32 ? tensor : tensor.cast(DType::f32));
  }
  return out;
}

Model merge_adapter(const Model& base, const Adapter& adapter) {
  if (!base.config.quantization.empty())
    fail("the base '{}' is compressed to {}; merge into the model it was made from, then compress", base.name, base.config.quantization);
  Model out = base;
  if (adapter.config.layers > 0) out.config = adapter.config;
  // Which linear layers hold [out,in] is a fact of the family, told by its graphs.
  const auto linear = int8_weights(out.config);
  std::string merged;
  for (const auto& [name, tensor] : adapter.weights) {
    const std::size_t end = name.find(".lora_A.weight");
    if (name.ends_with(".lora_B.weight")) continue;
    if (end == std::string::npos) {
      out.weights[name] = tensor;  // a head, trained whole
      continue;
    }
    const std::string layer = name.substr(0, end);
    const auto b = adapter.weights.find(layer + ".lora_B.weight");
    const auto w = base.weights.find(layer + ".weight");
    const auto layout = linear.find(layer + ".weight");
    if (w == base.weights.end() || layout == linear.end())
      fail("the adapter changes '{}', which the model '{}' does not have; is it the adapter's base?", layer, base.name);
    if (b == adapter.weights.end()) fail("the adapter has '{}' but no '{}.lora_B.weight'", name, layer);
    const Shape& shape = w->second.shape();
    const std::int64_t in = shape[layout->second ? 1 : 0], rows = shape[layout->second ? 0 : 1], rank = adapter.options.rank;
    if (tensor.shape() != Shape{rank, in} || b->second.shape() != Shape{rows, rank})
      fail("the adapter of '{}' is {} and {}; for {} inputs, {} outputs and rank {} it should be [{},{}] and [{},{}]", layer,
           tensor.type().str(), b->second.type().str(), in, rows, rank, rank, in, rows, rank);
    Tensor fresh = w->second.clone();
    add_product(fresh, tensor, b->second, adapter.options.factor(), !layout->second);
    out.weights[layer + ".weight"] = fresh;
  }
  // The base's own head serves another task.
  const auto expected = expected_weights(out.config);
  for (auto it = out.weights.begin(); it != out.weights.end();) {
    const auto known = expected.find(it->first);
    const bool fits = known != expected.end() && known->second.type == it->second.type();
    it = fits ? std::next(it) : out.weights.erase(it);
  }
  for (const auto& [name, want] : expected)
    if (want.required && !out.weights.contains(name)) fail("neither the adapter nor its base '{}' has the weight '{}'", base.name, name);
  return out;
}

ModelPtr load_merged(const fs::path& folder, const ModelPtr& base) { return load_merged_at(folder, base, 0); }

}  // namespace rhetor
