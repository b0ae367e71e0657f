#include "generate/plan_model.h"

#include <algorithm>
#include <cstdio>
#include <set>

#include "base/error.h"
#include "generate/cached_executables.h"
#include "runtime/plan.h"

namespace rhetor {
namespace {

class PlanModel final : public LanguageModel {
 public:
  PlanModel(Plan plan, const std::string& file, ChatTemplatePtr chat_template) : plan_(std::move(plan)), file_(file) {
    config_ = ModelConfig::from_json(blob("config.json"), file_);
    require_language_model(config_, file_);
    if (plan_.blobs.contains("tokenizer.json")) tokenizer_ = tokenizer_from_json(blob("tokenizer.json"), file_);
    name_ = blob("name");
    chat_template_ = chat_template;
    if (!chat_template_ && plan_.blobs.contains(kChatTemplateFile)) {
      const std::string where = fmt::format("{} in '{}'", kChatTemplateFile, file_);
      chat_template_ = std::make_shared<const ChatTemplate>(parse_chat_template(blob(kChatTemplateFile), where));
    }
    for (const auto& [entry, executable] : plan_.executables) {
      long long batch = 0, seq = 0;
      if (std::sscanf(entry.c_str(), "cached.b%lld.s%lld", &batch, &seq) != 2) continue;
      if (seq == 1)
        batches_.push_back(batch);
      else if (batch == 1)
        buckets_.push_back(seq);
    }
    std::sort(batches_.begin(), batches_.end());
    std::sort(buckets_.begin(), buckets_.end());
    if (buckets_.empty() && !batches_.empty()) buckets_.push_back(1);  // a context of one token
    if (batches_.empty() || batches_[0] != 1)
      fail("'{}' is a plan, but not one of a language model; compile a gpt2 or llama folder", file_);
  }
  const ModelConfig& config() const override { return config_; }
  const TokenizerPtr& tokenizer() const override { return tokenizer_; }
  const std::string& name() const override { return name_; }
  std::uint64_t weight_bytes() const override { return plan_.weight_bytes; }
  ChatTemplatePtr chat_template() const override { return chat_template_ ? chat_template_ : LanguageModel::chat_template(); }
  std::int64_t prefill_bucket(std::int64_t seq) const override { return choose_bucket(buckets_, seq); }
  std::vector<std::int64_t> decode_batches() const override { return batches_; }
  ExecutablePtr cached(std::int64_t batch, std::int64_t seq) const override {
    const std::string entry = cached_name(batch, seq == 1 ? 1 : prefill_bucket(seq));
    const auto it = plan_.executables.find(entry);
    if (it == plan_.executables.end()) {
      std::string list;
      for (const std::int64_t b : batches_) list += fmt::format("{}{}", list.empty() ? "" : ", ", b);
      fail("the plan '{}' has no executable {}; it was compiled for batches {}", file_, entry, list);
    }
    return it->second;
  }

 private:
  const std::string& blob(const std::string& key) const {
    const auto it = plan_.blobs.find(key);
    if (it == plan_.blobs.end()) fail("'{}' is a plan without '{}'; compile the model again", file_, key);
    return it->second;
  }

  Plan plan_;
  std::string file_, name_;
  ModelConfig config_;
  TokenizerPtr tokenizer_;
  ChatTemplatePtr chat_template_;   // null: the default
  std::vector<std::int64_t> batches_, buckets_;
};

}  // namespace

void compile_to_plan(const std::filesystem::path& path, const std::filesystem::path& out, const OpenOptions& options,
                     const std::vector<std::int64_t>& batches) {
  const ModelPtr model = load_model(path);
  require_language_model(model->config, path.string());
  CompileOptions compile_options = inference_options(options.compile);
  compile_options.keep_weights = true;
  Plan plan;
  std::set<std::int64_t> sizes(batches.begin(), batches.end());
  sizes.insert(1);
  for (const std::int64_t batch : sizes) {
    if (batch < 1 || (batch & (batch - 1)) != 0 || batch > 1024)
      fail("a plan was asked for batch {}; batches are powers of two from 1 to 1024", batch);
    plan.executables[cached_name(batch, 1)] = compile_cached(*model, batch, 1, compile_options);
  }
  for (const std::int64_t seq : prefill_buckets(options, model->config.context)) {
    auto& executable = plan.executables[cached_name(1, seq)];
    if (!executable) executable = compile_cached(*model, 1, seq, compile_options);
  }
  for (const auto& [weight, tensor] : model->weights) plan.weight_bytes += tensor.bytes();
  plan.blobs["config.json"] = model->config.to_json();
  plan.blobs["name"] = model->name;
  if (model->tokenizer) plan.blobs["tokenizer.json"] = model->tokenizer->to_json();
  const ChatTemplatePtr own = options.chat_template ? options.chat_template : model->chat_template;
  plan.blobs[kChatTemplateFile] = (own ? own : default_chat_template(model->tokenizer.get()))->to_json();
  save_plan(out, plan);
}

LanguageModelPtr open_plan_model(const std::filesystem::path& path, const OpenOptions& options) {
  return std::make_shared<const PlanModel>(load_plan(path, options.compile), path.string(), options.chat_template);
}

}  // namespace rhetor
