// Making models: train, compress, compile. Each call blocks until its files are written, atomically.
#pragma once

#include <string>
#include <vector>

#include "rhetor/error.hpp"

namespace rhetor::api {

// Trains by a TOML recipe, or continues from its newest checkpoint; overrides: "train.steps=100".
inline void train(const std::string& recipe, const std::vector<std::string>& overrides = {}) {
  std::vector<const char*> list;
  for (const auto& item : overrides) list.push_back(item.c_str());
  require(rhetor_train(recipe.c_str(), list.data(), list.size()));
}
inline void compress_int8(const std::string& model_folder, const std::string& output_folder) {
  require(rhetor_compress_int8(model_folder.c_str(), output_folder.c_str()));
}
inline void compile(const std::string& model_folder, const std::string& plan_file) {
  require(rhetor_compile(model_folder.c_str(), plan_file.c_str()));
}

}  // namespace rhetor::api
