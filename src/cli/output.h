// Small output helpers shared by the commands.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/display.h"  // IWYU pragma: export

namespace rhetor {

using JsonField = std::pair<std::string, std::variant<std::int64_t, double, std::string>>;
// Writes one JSON object atomically; does nothing if `path` is empty. NaN and infinities become null.
void write_json(const std::string& path, const std::vector<JsonField>& fields);

// The numbers of such a file; empty if it is missing or not one of ours.
std::map<std::string, double> read_json_numbers(const std::string& path);

}  // namespace rhetor
