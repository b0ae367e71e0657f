// What every evaluation gives back, whatever its task.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rhetor {

struct EvalReport {
  std::string task;
  std::int64_t n = 0;                                       // what the figures are means over: questions, texts, queries
  std::vector<std::pair<std::string, double>> figures;      // in the order to print them
  std::vector<std::string> predictions;                     // one JSON object each, in the order of the data

  void add(std::string name, double value) { figures.emplace_back(std::move(name), value); }
  // The figure of that name; fails if there is none.
  double figure(std::string_view name) const;
};

// How far it is; called between batches.
using EvalProgress = std::function<void(std::int64_t done, std::int64_t total)>;

// One JSON object a line of a file (plain, .gz, .xz, .zst), or the elements of its one JSON list, as text; `where` names the
// place. Fails naming file and line if a line is not JSON, and on a file without records. limit 0 = all.
struct JsonRecord {
  std::string text, where;
};
std::vector<JsonRecord> read_json_records(const std::string& path, std::int64_t limit = 0);

}  // namespace rhetor
