// Model folders: config.json, model.safetensors, tokenizer.json.
#include "base/error.h"
#include "base/file.h"
#include "graph/op.h"
#include "models/model.h"
#include "tensor/safetensors.h"

namespace rhetor {
namespace {

constexpr const char* kConfig = "config.json";
constexpr const char* kWeights = "model.safetensors";
constexpr const char* kTokenizer = "tokenizer.json";
constexpr std::uint64_t kConfigLimit = 1 << 20;   // bytes; a configuration is a few hundred

// `where` names the file in messages.
void check_weights(const ModelConfig& config, const Weights& weights, const std::string& where) {
  const auto expected = expected_weights(config);
  for (const auto& [name, want] : expected) {
    const auto found = weights.find(name);
    if (found == weights.end()) {
      if (!want.required) continue;
      fail("{}: the weight '{}' ({}) is missing; does config.json describe these weights?", where, name, want.type.str());
    }
    if (found->second.type() != want.type)
      fail("{}: the weight '{}' is {}, expected {} by config.json", where, name, found->second.type().str(), want.type.str());
  }
  for (const auto& [name, tensor] : weights) {
    if (expected.contains(name)) continue;
    std::vector<std::string_view> names;
    for (const auto& [known, want] : expected) names.push_back(known);
    const std::string near = nearest(name, names);
    fail("{}: the weight '{}' ({}) belongs to no part of a {} model of this configuration{}", where, name, tensor.type().str(),
         config.family, near.empty() ? "" : fmt::format(" (did you mean '{}'?)", near));
  }
}

// "runs/harbour/" and "runs/harbour" are both called "harbour"; "runs/harbour/int8", a compressed form, "harbour-int8".
std::string model_name(const std::filesystem::path& folder) {
  std::filesystem::path clean = std::filesystem::absolute(folder).lexically_normal();
  if (!clean.has_filename()) clean = clean.parent_path();
  const std::string name = clean.filename().string();
  return name == "int8" ? clean.parent_path().filename().string() + "-int8" : name;
}

}  // namespace

ModelPtr load_model(const std::filesystem::path& folder) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored))
    fail(ErrorKind::not_found, "there is no model folder '{}'; it should hold {}, {} and {}", folder.string(), kConfig, kWeights, kTokenizer);
  auto model = std::make_shared<Model>();
  const std::filesystem::path config_path = folder / kConfig;
  model->config = ModelConfig::from_json(read_file(config_path, kConfigLimit), "'" + config_path.string() + "'");
  const std::filesystem::path weights_path = folder / kWeights;
  model->weights = load_safetensors(weights_path).tensors;
  check_weights(model->config, model->weights, "'" + weights_path.string() + "'");
  const std::filesystem::path tokenizer_path = folder / kTokenizer;
  if (std::filesystem::exists(tokenizer_path, ignored)) {
    model->tokenizer = load_tokenizer(tokenizer_path);
    if (model->tokenizer->vocab_size() > model->config.vocab)
      fail("'{}' has {} tokens, but the model in '{}' has a vocabulary of {}; they do not belong together", tokenizer_path.string(),
           model->tokenizer->vocab_size(), folder.string(), model->config.vocab);
  }
  model->name = model_name(folder);
  return model;
}

void save_model(const std::filesystem::path& folder, const Model& model) {
  model.config.validate();
  check_weights(model.config, model.weights, "the model to save");
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) fail(ErrorKind::io, "cannot make the folder '{}': {}", folder.string(), error.message());
  // Each file is replaced as a whole; config.json last, so that a folder cut short is not taken for a new one.
  save_safetensors(folder / kWeights, model.weights, {{"format", "rhetor"}, {"family", model.config.family}});
  if (model.tokenizer) model.tokenizer->save(folder / kTokenizer);
  write_file_atomic(folder / kConfig, model.config.to_json());
}

}  // namespace rhetor
