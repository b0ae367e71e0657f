#include "serve/server_info.h"

#include "base/error.h"
#include "serve/json_fields.h"

namespace rhetor {
namespace {

// OpenAI's fields first, then ours.
Json one(const ServedModel& model, std::int64_t created) {
  Json can = Json::array();
  if (model.language) can = {"chat", "completions"};
  for (const EncoderTask task : model.tasks) can.push_back(task_name(task));
  return {{"id", model.name},
          {"object", "model"},
          {"created", created},
          {"owned_by", "rhetor"},
          {"capabilities", std::move(can)},
          {"family", model.family},
          {"context", model.context},
          {"hidden", model.hidden},
          {"weight_bytes", model.weight_bytes}};
}

}  // namespace

std::string models_json(const std::vector<const ServedModel*>& models, std::int64_t created) {
  Json list = Json::array();
  for (const ServedModel* model : models) list.push_back(one(*model, created));
  return dump({{"object", "list"}, {"data", std::move(list)}}) + "\n";
}

std::string model_json(const ServedModel& model, std::int64_t created) { return dump(one(model, created)) + "\n"; }

std::string health_json(const std::string& model, const std::string& status, int running, int waiting) {
  return dump({{"status", status}, {"model", model}, {"running", running}, {"waiting", waiting}}) + "\n";
}

std::string server_compiler() { return __VERSION__; }

}  // namespace rhetor
