// What the service says about itself. Thread-safe (pure functions).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "serve/served_model.h"

namespace rhetor {

std::string models_json(const std::vector<const ServedModel*>& models, std::int64_t created);
std::string model_json(const ServedModel& model, std::int64_t created);
std::string health_json(const std::string& model, const std::string& status, int running, int waiting);
// For rhetor_build_info: what compiled the program.
std::string server_compiler();

}  // namespace rhetor
