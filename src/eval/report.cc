#include "eval/report.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "data/corpus.h"

namespace rhetor {

double EvalReport::figure(std::string_view name) const {
  for (const auto& [key, value] : figures) {
    if (key == name) return value;
  }
  fail("the evaluation '{}' has no figure '{}'", task, name);
}

std::vector<JsonRecord> read_json_records(const std::string& path, std::int64_t limit) {
  const std::string text = read_unpacked(path);
  const auto full = [&](const std::vector<JsonRecord>& records) {
    return limit > 0 && static_cast<std::int64_t>(records.size()) >= limit;
  };
  std::vector<JsonRecord> out;
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && text[first] == '[') {
    const auto list = nlohmann::json::parse(text, nullptr, false);
    if (!list.is_array()) fail("'{}' begins like a JSON list, but is none", path);
    for (std::size_t i = 0; i < list.size() && !full(out); ++i)
      out.push_back(
          {list[i].dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), fmt::format("'{}' record {}", path, i + 1)});
  } else {
    each_line(text, [&](std::string_view row, std::uint64_t line) {
      if (is_blank(row)) return true;
      const std::string where = fmt::format("'{}' line {}", path, line);
      if (!nlohmann::json::accept(row)) fail("{}: not valid JSON; expected one object a line, or one list", where);
      out.push_back({std::string(row), where});
      return !full(out);
    });
  }
  if (out.empty()) fail("'{}' holds no records", path);
  return out;
}

}  // namespace rhetor
