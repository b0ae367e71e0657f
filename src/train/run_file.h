// run.json of a training folder. Internal to trainer.cc.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/file.h"
#include "base/log.h"

namespace rhetor {

// run.json: what must not be decided twice. Written before the first step, so that a run killed before its first
// checkpoint starts again exactly as it started.
struct RunFile {
  std::string recipe;
  std::int64_t steps = 0;
  std::uint64_t data_hash = 0;

  static std::optional<RunFile> load(const std::filesystem::path& path) {
    if (!std::filesystem::exists(path)) return std::nullopt;
    try {
      const auto j = nlohmann::json::parse(read_file(path, 64u << 20));
      return RunFile{j.at("recipe").get<std::string>(), j.at("steps").get<std::int64_t>(),
                     j.at("data_hash").get<std::uint64_t>()};
    } catch (const nlohmann::json::exception& error) {
      log_warning("{} is not readable ({}); the run is set up again", path.string(), error.what());
      return std::nullopt;
    }
  }
  void save(const std::filesystem::path& path) const {
    write_file_atomic(path, nlohmann::json{{"recipe", recipe}, {"steps", steps}, {"data_hash", data_hash}}.dump(1) + "\n");
  }
};

}  // namespace rhetor
