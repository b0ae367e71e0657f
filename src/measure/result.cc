#include <nlohmann/json.hpp>

#include <ctime>
#include <filesystem>

#include "base/error.h"
#include "base/thread_pool.h"
#include "base/version.h"
#include "cpu/kernel.h"
#include "measure/bench.h"
#include "measure/result.h"

namespace rhetor {
namespace {

std::string cell_text(const BenchRow::Cell& cell) {
  if (std::holds_alternative<std::nullptr_t>(cell)) return "-";
  if (const auto* real = std::get_if<double>(&cell)) {
    const double size = *real < 0 ? -*real : *real;
    if (size > 0 && size < 0.01) return fmt::format("{:.2g}", *real);
    return size == 0 || size >= 1000 ? fmt::format("{:.0f}", *real)
                                     : fmt::format("{:.{}f}", *real,
                                                   size >= 100 ? 1
                                                   : size >= 1 ? 2
                                                               : 4);
  }
  if (const auto* integer = std::get_if<std::int64_t>(&cell)) return std::to_string(*integer);
  return std::get<std::string>(cell);
}

}  // namespace

BenchResult new_result(std::string what, int threads) {
  BenchResult result;
  result.what = std::move(what);
  char date[32];
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::strftime(date, sizeof date, "%Y-%m-%d", &parts);
  result.machine = {
      {"cpu", cpu_description()}, {"threads", std::to_string(threads)}, {"date", date}, {"version", std::string(kVersion)}};
  return result;
}

std::string to_table(const BenchResult& result) {
  std::string out = result.what + "\n";
  for (const auto& [key, value] : result.machine) out += fmt::format("  {}: {}\n", key, value);
  if (result.rows.empty()) return out + "  nothing matched\n";
  std::vector<std::size_t> widths;
  std::size_t name_width = 4;
  for (const BenchRow& row : result.rows) name_width = std::max(name_width, row.name.size());
  const auto& first = result.rows[0].cells;
  for (std::size_t c = 0; c < first.size(); ++c) {
    std::size_t width = first[c].first.size();
    for (const BenchRow& row : result.rows)
      if (c < row.cells.size()) width = std::max(width, cell_text(row.cells[c].second).size());
    widths.push_back(width + 2);
  }
  out += fmt::format("{:<{}}", "name", name_width);
  for (std::size_t c = 0; c < first.size(); ++c) out += fmt::format("{:>{}}", first[c].first, widths[c]);
  out += '\n';
  for (const BenchRow& row : result.rows) {
    out += fmt::format("{:<{}}", row.name, name_width);
    for (std::size_t c = 0; c < row.cells.size() && c < widths.size(); ++c)
      out += fmt::format("{:>{}}", cell_text(row.cells[c].second), widths[c]);
    out += '\n';
  }
  return out;
}

std::string to_json(const BenchResult& result) {
  nlohmann::ordered_json json;
  json["what"] = result.what;
  for (const auto& [key, value] : result.machine) json["machine"][key] = value;
  json["rows"] = nlohmann::ordered_json::array();
  // One row is the common case: its cells stand at the top level too, where scripts look for them.
  for (const BenchRow& row : result.rows) {
    nlohmann::ordered_json item;
    item["name"] = row.name;
    for (const auto& [key, value] : row.cells) {
      std::visit([&, &k = key](const auto& v) { item[k] = v; }, value);
    }
    if (result.rows.size() == 1)
      for (const auto& [key, value] : item.items()) json[key] = value;
    json["rows"].push_back(std::move(item));
  }
  // A name may come from the command line and be no UTF-8.
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace rhetor
