#include "runtime/profile.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

namespace rhetor {
namespace {

std::string op_label(const Node& node) {
  const AttrValue* anchor = node.attrs.find("anchor");
  if (!anchor || kind_of(*anchor) != AttrKind::text) return std::string(node.op->name);
  const std::string& text = std::get<std::string>(*anchor);
  return fmt::format("{}({})", node.op->name, text.empty() ? "pointwise" : text);
}

}  // namespace

std::vector<ProfileRow> profile(Session& session, int runs) {
  if (runs < 1) fail("a profile needs at least one run");
  const Executable& executable = session.executable();
  std::map<std::int32_t, const CompileReport::NodeChoice*> choices;
  for (const auto& choice : executable.report().choices) choices[choice.node] = &choice;
  std::vector<ProfileRow> rows;
  for (const Instruction& instruction : executable.instructions()) {
    const Node& node = executable.graph().node(instruction.node);
    const CompileReport::NodeChoice& choice = *choices.at(instruction.node);
    rows.push_back({op_label(node), choice.kernel, node.scope, instruction.node, 1, 0, choice.cost, 0, choice.detail, {}});
    for (const KernelRefusal& refusal : choice.refused)
      rows.back().refused += fmt::format("{}{} ({})", rows.back().refused.empty() ? "" : "; ", refusal.candidate, refusal.reason);
  }
  session.run();  // warm-up
  for (int run = 0; run < runs; ++run)
    session.run_profiled([&](int i, double seconds) { rows[static_cast<std::size_t>(i)].seconds += seconds / runs; });
  return rows;
}

std::vector<ProfileRow> merge_by_kernel(const std::vector<ProfileRow>& rows) {
  std::map<std::pair<std::string, std::string>, ProfileRow> merged;
  for (const ProfileRow& row : rows) {
    ProfileRow& sum = merged[{row.op, row.kernel}];
    sum.op = row.op;
    sum.kernel = row.kernel;
    sum.calls += row.calls;
    sum.seconds += row.seconds;
    sum.cost.flops += row.cost.flops;
    sum.cost.bytes += row.cost.bytes;
    sum.floor_seconds += row.floor_seconds;
    if (sum.calls == row.calls) sum.detail = row.detail, sum.refused = row.refused;   // the first one's
  }
  std::vector<ProfileRow> out;
  for (auto& [key, row] : merged) out.push_back(std::move(row));
  std::stable_sort(out.begin(), out.end(), [](const ProfileRow& a, const ProfileRow& b) { return a.seconds > b.seconds; });
  return out;
}

std::string profile_table(const std::vector<ProfileRow>& rows) {
  double total = 0, floor = 0;
  for (const ProfileRow& row : rows) total += row.seconds, floor += row.floor_seconds;
  const auto rate = [](double amount, double seconds) { return seconds > 0 ? amount / seconds / 1e9 : 0.0; };
  const auto of_floor = [&](double least, double seconds) {
    return floor > 0 ? fmt::format("{:>7.1f}%", seconds > 0 ? 100 * least / seconds : 0.0) : std::string();
  };
  std::string out = fmt::format("{:<28} {:<34} {:>5} {:>10} {:>7} {:>9} {:>8}{}\n", "op", "kernel", "calls", "us", "share", "GFLOP/s", "GB/s",
                                floor > 0 ? "   floor" : "");
  for (const ProfileRow& row : rows)
    out += fmt::format("{:<28} {:<34} {:>5} {:>10.1f} {:>6.1f}% {:>9.1f} {:>8.1f}{}\n", row.op, row.kernel, row.calls, row.seconds * 1e6,
                       total > 0 ? 100 * row.seconds / total : 0.0, rate(row.cost.flops, row.seconds), rate(row.cost.bytes, row.seconds),
                       of_floor(row.floor_seconds, row.seconds));
  return out + fmt::format("{:<28} {:<34} {:>5} {:>10.1f} {:>7} {:>9} {:>8}{}\n", "total", "", "", total * 1e6, "", "", "", of_floor(floor, total));
}

std::string profile_reasons(const std::vector<ProfileRow>& rows) {
  std::string out;
  std::set<std::string> said;
  for (const ProfileRow& row : rows) {
    if ((row.detail.empty() && row.refused.empty()) || !said.insert(row.op + row.kernel + row.detail + row.refused).second) continue;
    out += fmt::format("{} by {}{}{}\n", row.op, row.kernel, row.detail.empty() ? "" : ": " + row.detail,
                       row.refused.empty() ? "" : "\n  not " + row.refused);
  }
  return out;
}

std::string chrome_trace(const std::vector<ProfileRow>& rows, const std::string& title) {
  nlohmann::ordered_json events = nlohmann::ordered_json::array();
  double at = 0;   // microseconds
  for (const ProfileRow& row : rows) {
    events.push_back({{"name", row.kernel}, {"cat", row.op}, {"ph", "X"}, {"ts", at}, {"dur", row.seconds * 1e6}, {"pid", 0}, {"tid", 0},
                      {"args", {{"node", row.node}, {"scope", row.scope}, {"detail", row.detail}, {"refused", row.refused},
                                {"flops", row.cost.flops}, {"bytes", row.cost.bytes}, {"floor_us", row.floor_seconds * 1e6}}}});
    at += row.seconds * 1e6;
  }
  const nlohmann::ordered_json trace = {{"displayTimeUnit", "ns"}, {"otherData", {{"title", title}}}, {"traceEvents", events}};
  return trace.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace rhetor
