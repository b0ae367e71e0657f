// Model folders: config.json, model.safetensors, tokenizer.json, chat_template.json.
//
// A save is one step for every reader, wherever it is killed. The new files are written whole into a folder beside the old ones,
// which is then renamed to ".saved": from that moment the model is the new one, because a file in ".saved" goes before the file
// of that name in the folder itself. Moving them out is tidying up; the next load or save ends it if a kill cut it short. The folder
// cannot be swapped as a whole: a training keeps its checkpoints, metrics and lock in it.
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "graph/op.h"
#include "models/lora.h"
#include "models/model.h"
#include "tensor/safetensors.h"

namespace rhetor {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfig = "config.json";
constexpr const char* kWeights = "model.safetensors";
constexpr const char* kTokenizer = "tokenizer.json";
constexpr const char* kSaved = ".saved";
constexpr const char* kNoTokenizer = "no-tokenizer";   // in ".saved": the new model has none, whatever the folder holds
constexpr const char* kChecksum = "weights_xxh3";      // in the metadata of the weights file
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

// The file that is called `name` for a reader.
fs::path present(const fs::path& folder, const char* name) {
  std::error_code ignored;
  const fs::path fresh = folder / kSaved / name;
  return fs::exists(fresh, ignored) ? fresh : folder / name;
}

// Moves the files of a committed save to their places; the caller holds the folder's lock. False if it could not (no rights).
bool finish_save(const fs::path& folder) {
  const fs::path saved = folder / kSaved;
  std::error_code error;
  if (!fs::exists(saved, error)) return true;
  if (fs::exists(saved / kNoTokenizer, error)) fs::remove(folder / kTokenizer, error);
  if (error) return false;
  for (const char* name : {kTokenizer, kChatTemplateFile, kWeights, kConfig}) {
    if (!fs::exists(saved / name, error)) continue;
    fs::rename(saved / name, folder / name, error);
    if (error) return false;
  }
  flush_folder(folder);
  fs::remove_all(saved, error);
  return !error;
}

// "runs/harbour/" and "runs/harbour" are both called "harbour"; "runs/harbour/int8", a compressed form, "harbour-int8".
std::string model_name(const fs::path& folder) {
  fs::path clean = fs::absolute(folder).lexically_normal();
  if (!clean.has_filename()) clean = clean.parent_path();
  const std::string name = clean.filename().string();
  const bool form = name == kInt8 || name == kInt4 || name == kInt4Head;
  return form ? clean.parent_path().filename().string() + "-" + name : name;
}

}  // namespace

ModelPtr load_model(const fs::path& folder) {
  std::error_code ignored;
  if (!fs::is_directory(folder, ignored))
    fail(ErrorKind::not_found, "there is no model folder '{}'; it should hold {}, {} and {}", folder.string(), kConfig, kWeights, kTokenizer);
  if (is_adapter_folder(folder)) return load_merged(folder);
  if (fs::exists(folder / kSaved, ignored)) {
    const FolderGuard alone(folder, FolderGuard::Mode::exclusive_now);
    if (alone.held()) finish_save(folder);  // if it cannot, the files are read where they are
  }
  auto model = std::make_shared<Model>();
  Safetensors file;
  {
    // All of one save: a save in another process waits until they are open. Mapped weights stay what they were when opened.
    const FolderGuard steady(folder, FolderGuard::Mode::shared);
    const fs::path config_path = present(folder, kConfig);
    if (!fs::exists(config_path, ignored) && !ignored) {  // an error is told by the reading below
      fail(ErrorKind::not_found, "'{}' is no model folder: it holds no {}; a model folder is what 'rhetor train' or 'rhetor compress' wrote",
           folder.string(), kConfig);
    }
    model->config = ModelConfig::from_json(read_file(config_path, kConfigLimit), "'" + (folder / kConfig).string() + "'");
    const fs::path tokenizer_path = present(folder, kTokenizer);
    const bool none = fs::exists(folder / kSaved / kNoTokenizer, ignored) || (!fs::exists(tokenizer_path, ignored) && !ignored);
    if (!none) model->tokenizer = load_tokenizer(tokenizer_path);
    const bool moving = fs::exists(folder / kSaved / kChatTemplateFile, ignored);
    model->chat_template = load_chat_template(moving ? folder / kSaved : folder);
    file = load_safetensors(present(folder, kWeights));
  }
  model->weights = std::move(file.tensors);
  const std::string weights_name = "'" + (folder / kWeights).string() + "'";
  check_weights(model->config, model->weights, weights_name);
  if (const auto expected = file.metadata.find(kChecksum); expected != file.metadata.end()) {
    if (const std::string found = weights_hash(model->weights); found != expected->second) {
      fail("{}: the checksum of the weights is {}, expected {}; the file is damaged: copy it again, or train or compress the model again",
           weights_name, found, expected->second);
    }
  }
  if (model->tokenizer && model->tokenizer->vocab_size() > model->config.vocab) {
    fail("'{}' has {} tokens, but the model in '{}' has a vocabulary of {}; they do not belong together", (folder / kTokenizer).string(),
         model->tokenizer->vocab_size(), folder.string(), model->config.vocab);
  }
  model->name = model_name(folder);
  return model;
}

void save_model(const fs::path& folder, const Model& model) {
  model.config.validate();
  check_weights(model.config, model.weights, "the model to save");
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail(ErrorKind::io, "cannot make the folder '{}': {}", folder.string(), error.message());
  remove_stale_temporaries(folder);
  const fs::path fresh = temporary_name(folder / "model");
  try {
    fs::create_directory(fresh);
    const FolderGuard writing(fresh, FolderGuard::Mode::exclusive_now);  // keeps remove_stale_temporaries() of others off
    save_safetensors(fresh / kWeights, model.weights,
                     {{"format", "rhetor"}, {"family", model.config.family}, {kChecksum, weights_hash(model.weights)}});
    if (model.tokenizer)
      model.tokenizer->save(fresh / kTokenizer);
    else
      write_file_atomic(fresh / kNoTokenizer, "");
    if (model.chat_template) write_file_atomic(fresh / kChatTemplateFile, model.chat_template->to_json());
    write_file_atomic(fresh / kConfig, model.config.to_json());

    const FolderGuard alone(folder, FolderGuard::Mode::exclusive);
    if (!finish_save(folder)) fail(ErrorKind::io, "cannot replace the files in '{}'; is another user their owner?", folder.string());
    fs::remove(folder / "adapter_config.json", error);  // what was there is an adapter no more
    fs::rename(fresh, folder / kSaved);  // the new model counts from here
    flush_folder(folder);
    if (!finish_save(folder)) log_warning("'{}' is saved, but its files stay in '{}'", folder.string(), (folder / kSaved).string());
  } catch (const fs::filesystem_error& failure) {
    fs::remove_all(fresh, error);
    fail(ErrorKind::io, "cannot save the model in '{}': {}", folder.string(), failure.code().message());
  } catch (...) {
    fs::remove_all(fresh, error);
    throw;
  }
}

}  // namespace rhetor
