#include "cli/output.h"

#include <fmt/core.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"

namespace rhetor {

void write_json(const std::string& path, const std::vector<JsonField>& fields) {
  if (path.empty()) return;
  nlohmann::ordered_json object;
  for (const auto& [name, value] : fields) {
    std::visit([&, &key = name](const auto& v) { object[key] = v; }, value);
  }
  write_file_atomic(path, object.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

std::map<std::string, double> read_json_numbers(const std::string& path) {
  std::map<std::string, double> numbers;
  std::error_code missing;
  if (!std::filesystem::is_regular_file(path, missing)) return numbers;
  const auto object = nlohmann::json::parse(read_file(path), nullptr, false);
  if (!object.is_object()) return numbers;
  for (const auto& [name, value] : object.items())
    if (value.is_number() || value.is_null()) numbers[name] = value.is_null() ? std::nan("") : value.get<double>();
  return numbers;
}

}  // namespace rhetor
