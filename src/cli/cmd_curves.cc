// rhetor curves: several training runs in one picture and one table.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "cli/args.h"
#include "cli/commands.h"
#include "train/curve.h"

namespace rhetor {
namespace {

struct Group {
  std::vector<double> training, validation;  // one a run
};

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return values.empty() ? std::nan("") : sum / static_cast<double>(values.size());
}
// Largest less smallest.
double spread(const std::vector<double>& values) {
  if (values.empty()) return std::nan("");
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  return *high - *low;
}

}  // namespace

int cmd_curves(int argc, const char* const* argv) {
  std::vector<std::string> runs;
  std::string svg = "curves.svg", title = "training loss";
  Args args("curves", "Draws the training losses of several runs in one picture and compares where they ended.",
            "  rhetor curves f32=runs/a f32=runs/b bf16=runs/c --svg precision.svg");
  args.positionals("runs", runs, "LABEL=FOLDER of a training run; runs of one label are seeds of one recipe")
      .option("--svg", svg, "where the picture goes")
      .option("--title", title, "of the picture");
  if (!args.parse(argc, argv)) return 0;
  std::vector<LabelledCurve> curves;
  std::vector<std::string> labels;
  std::map<std::string, Group> groups;
  for (const std::string& run : runs) {
    const std::size_t at = run.find('=');
    if (at == std::string::npos || at == 0) fail("'{}' is not LABEL=FOLDER, such as bf16=runs/model", run);
    const std::filesystem::path file = std::filesystem::path(run.substr(at + 1)) / "metrics.jsonl";
    if (!std::filesystem::is_regular_file(file)) fail("'{}' does not exist; is the folder that of a training run?", file.string());
    const MetricsHistory history = read_metrics(file, std::filesystem::file_size(file));
    if (history.train.empty()) fail("'{}' holds no training step", file.string());
    const std::string label = run.substr(0, at);
    if (!groups.contains(label)) labels.push_back(label);
    Group& group = groups[label];
    const std::size_t last = std::min<std::size_t>(100, history.train.size());
    std::vector<double> ends;
    for (std::size_t i = history.train.size() - last; i < history.train.size(); ++i) ends.push_back(history.train[i].loss);
    group.training.push_back(mean(ends));
    if (!history.validation.empty()) group.validation.push_back(history.validation.back().loss);
    curves.push_back({label, history.train});
  }
  const Group& first = groups[labels[0]];
  fmt::print("{:<16} {:>4}  {:>21}  {:>10}  {:>10}\n", "", "runs", "last 100 training", "validation", fmt::format("less {}", labels[0]));
  for (const std::string& label : labels) {
    const Group& group = groups[label];
    fmt::print("{:<16} {:>4}  {:>21.4f}  {:>10.4f}  {:>+10.4f}\n", label, group.training.size(), mean(group.training), mean(group.validation),
               mean(group.validation) - mean(first.validation));
    if (group.training.size() > 1)
      fmt::print("{:<16} {:>4}  {:>21.4f}  {:>10.4f}\n", "  their spread", "", spread(group.training), spread(group.validation));
  }
  write_file_atomic(svg, compared_curves_svg(curves, title));
  fmt::print("picture: {}\n", svg);
  return 0;
}

}  // namespace rhetor
