// A model as the service offers it: what it is called and what it can do.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "generate/encoder_model.h"
#include "generate/generator.h"
#include "serve/api_tasks.h"

namespace rhetor {

struct ServedModel {
  std::string name;
  LanguageModelPtr language;                 // null: it generates no text
  std::function<EncoderModelPtr()> encoder;  // empty: it answers none of the tasks; called at the first request
  std::vector<EncoderTask> tasks;            // what `encoder` can do
  // For /v1/models.
  std::string family;
  std::int64_t context = 0, hidden = 0;
  std::uint64_t weight_bytes = 0;

  bool can(EncoderTask task) const;
};

// `path` is a model folder or a plan file; `name` "" = the name the model has. A plan generates text only; a folder of a
// generating family gives embeddings and ranks as well.
ServedModel open_served_model(const std::filesystem::path& path, const std::string& name = {});
// A language model alone, and an encoder alone.
ServedModel serve_language_model(LanguageModelPtr model, const std::string& name = {});
ServedModel serve_encoder_model(EncoderModelPtr model, const std::string& name = {});

// The word for a task in messages and in /v1/models: "embeddings", "rank", "classify", "tag", "qa".
std::string_view task_name(EncoderTask task);

}  // namespace rhetor
