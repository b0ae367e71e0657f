// A model folder as a language model: executables are compiled when they are first asked for.
#include <algorithm>
#include <map>
#include <mutex>

#include "base/error.h"
#include "generate/cached_executables.h"
#include "generate/plan_model.h"

namespace rhetor {

std::string cached_name(std::int64_t batch, std::int64_t seq) { return fmt::format("cached.b{}.s{}", batch, seq); }

std::vector<std::int64_t> prefill_buckets(const OpenOptions& options, std::int64_t context) {
  std::vector<std::int64_t> out;
  for (const std::int64_t size : options.prefill_buckets) {
    if (size < 1) fail("a prefill bucket of {} tokens was asked for; it must be at least 1", size);
    out.push_back(std::min(size, context));
  }
  if (out.empty()) out.push_back(context);
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

std::int64_t choose_bucket(const std::vector<std::int64_t>& buckets, std::int64_t seq) {
  const auto it = std::lower_bound(buckets.begin(), buckets.end(), seq);
  return it == buckets.end() ? buckets.back() : *it;
}

void require_language_model(const ModelConfig& config, const std::string& name) {
  if (config.family == "bert")
    fail("'{}' is a bert model: it reads text but does not generate it; give a gpt2 or llama model", name);
  if (config.family == "t5")
    fail("'{}' is a t5 model: 'rhetor generate' answers with it; here a gpt2 or llama model is needed", name);
}

ExecutablePtr compile_cached(const Model& model, std::int64_t batch, std::int64_t seq, CompileOptions options) {
  BuildSpec spec;
  spec.task = BuildSpec::Task::cached;
  spec.batch = batch;
  spec.seq = seq;
  spec.capacity = model.config.context;
  if (options.passes.narrow) spec.cache = options.passes.compute == DType::f16 ? DType::f16 : DType::bf16;
  return compile(build_model(model.config, spec), model.weights, compile_options_for(model.config, std::move(options)));
}

namespace {

OpenOptions for_inference(OpenOptions options) {
  options.compile = inference_options(std::move(options.compile));
  return options;
}

class FolderModel final : public LanguageModel {
 public:
  FolderModel(ModelPtr model, const OpenOptions& options)
      : model_(std::move(model)), options_(for_inference(options)), buckets_(prefill_buckets(options, model_->config.context)) {
    require_language_model(model_->config, model_->name);
  }
  const ModelConfig& config() const override { return model_->config; }
  const TokenizerPtr& tokenizer() const override { return model_->tokenizer; }
  const std::string& name() const override { return model_->name; }
  std::uint64_t weight_bytes() const override {
    std::uint64_t bytes = 0;
    for (const auto& [weight, tensor] : model_->weights) bytes += tensor.bytes();
    return bytes;
  }
  ChatTemplatePtr chat_template() const override {
    if (options_.chat_template) return options_.chat_template;
    return model_->chat_template ? model_->chat_template : LanguageModel::chat_template();
  }
  std::int64_t prefill_bucket(std::int64_t seq) const override { return choose_bucket(buckets_, seq); }
  ExecutablePtr cached(std::int64_t batch, std::int64_t seq) const override {
    const std::int64_t size = seq == 1 ? 1 : prefill_bucket(seq);
    // Compiled under the lock: a second thread that wants the same one waits for it instead of making another.
    std::lock_guard lock(mutex_);
    auto& executable = executables_[{batch, size}];
    if (!executable) executable = compile_cached(*model_, batch, size, options_.compile);
    return executable;
  }

 private:
  ModelPtr model_;
  OpenOptions options_;
  std::vector<std::int64_t> buckets_;
  mutable std::mutex mutex_;
  mutable std::map<std::pair<std::int64_t, std::int64_t>, ExecutablePtr> executables_;
};

}  // namespace

LanguageModelPtr make_language_model(ModelPtr model, const OpenOptions& options) {
  return std::make_shared<const FolderModel>(std::move(model), options);
}

LanguageModelPtr open_language_model(const std::filesystem::path& path, const OpenOptions& options) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    ModelPtr model = load_model(path);
    if (!model->tokenizer)
      fail(ErrorKind::not_found, "the model folder '{}' has no tokenizer.json; without it there is no text, only numbers",
           path.string());
    return make_language_model(std::move(model), options);
  }
  if (!std::filesystem::exists(path, error))
    fail(ErrorKind::not_found, "'{}' does not exist; give a model folder or a .plan file", path.string());
  return open_plan_model(path, options);
}

}  // namespace rhetor
