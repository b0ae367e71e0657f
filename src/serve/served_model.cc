#include "serve/served_model.h"

#include <algorithm>

#include "base/error.h"

namespace rhetor {

std::string_view task_name(EncoderTask task) {
  switch (task) {
    case EncoderTask::embed:
      return "embeddings";
    case EncoderTask::rank:
      return "rank";
    case EncoderTask::classify:
      return "classify";
    case EncoderTask::tag:
      return "tag";
    case EncoderTask::answer:
      break;
  }
  return "qa";
}

bool ServedModel::can(EncoderTask task) const { return std::find(tasks.begin(), tasks.end(), task) != tasks.end(); }

ServedModel serve_language_model(LanguageModelPtr model, const std::string& name) {
  const ModelConfig& config = model->config();
  return {.name = name.empty() ? model->name() : name,
          .language = model,
          .family = config.family,
          .context = config.context,
          .hidden = config.hidden,
          .weight_bytes = model->weight_bytes()};
}

ServedModel serve_encoder_model(EncoderModelPtr model, const std::string& name) {
  const ModelConfig& config = model->config();
  ServedModel out{
      .name = name.empty() ? model->name() : name, .family = config.family, .context = config.context, .hidden = config.hidden};
  if (model->can_embed()) out.tasks.push_back(EncoderTask::embed);
  if (model->can_rank()) out.tasks.push_back(EncoderTask::rank);
  if (model->can_classify()) out.tasks.push_back(EncoderTask::classify);
  if (model->can_tag()) out.tasks.push_back(EncoderTask::tag);
  if (model->can_answer()) out.tasks.push_back(EncoderTask::answer);
  out.encoder = [model = std::move(model)] { return model; };
  return out;
}

ServedModel open_served_model(const std::filesystem::path& path, const std::string& name) {
  std::error_code error;
  if (!std::filesystem::is_directory(path, error)) return serve_language_model(open_language_model(path), name);
  const ModelPtr model = load_model(path);
  if (!model->tokenizer)
    fail(ErrorKind::not_found, "the model folder '{}' has no tokenizer.json; without it there is no text, only numbers",
         path.string());
  std::uint64_t bytes = 0;
  for (const auto& [weight, tensor] : model->weights) bytes += tensor.bytes();
  ServedModel out;
  if (model->config.family == "bert" || !model->config.task.empty()) {
    out = serve_encoder_model(make_encoder_model(model), name);
  } else {
    out = serve_language_model(make_language_model(model), name);
    // Made when first asked for: most services of such a model never are.
    out.encoder = [model] { return make_encoder_model(model); };
    out.tasks = {EncoderTask::embed, EncoderTask::rank};
  }
  out.weight_bytes = bytes;
  return out;
}

}  // namespace rhetor
