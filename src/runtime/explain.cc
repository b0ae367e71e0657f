#include "runtime/explain.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/display.h"
#include "graph/text.h"

namespace rhetor {
namespace {

constexpr TextOptions kReadable{.scopes = true, .max_constant_elements = 8};

std::string label(const Graph& graph, std::int32_t i) {
  const Node& node = graph.node(i);
  const AttrValue* anchor = node.attrs.find("anchor");
  if (!anchor || kind_of(*anchor) != AttrKind::text) return std::string(node.op->name);
  const std::string& text = std::get<std::string>(*anchor);
  return fmt::format("{}({})", node.op->name, text.empty() ? "pointwise" : text);
}

std::string result_types(const Node& node) {
  std::string out;
  for (const Type& type : node.outputs) out.append(out.empty() ? "" : ", ").append(type.str());
  return out;
}

// "cpu.a (needs amx); cpu.b (k is 3)".
std::string refusals(const CompileReport::NodeChoice& choice) {
  std::string out;
  for (const KernelRefusal& refusal : choice.refused)
    out += fmt::format("{}{} ({})", out.empty() ? "" : "; ", refusal.candidate, refusal.reason);
  return out;
}

// How often each op occurs: the graph in one line.
std::string census(const Graph& graph) {
  std::map<std::string, int> counts;
  for (std::int32_t i = 0; i < graph.size(); ++i) ++counts[label(graph, i)];
  std::vector<std::pair<std::string, int>> sorted(counts.begin(), counts.end());
  std::stable_sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  std::string out;
  for (const auto& [op, count] : sorted) out += fmt::format("{}{} {}", out.empty() ? "" : ", ", count, op);
  return out;
}

struct Fact {
  std::string name, value;
};
std::vector<Fact> facts(const Executable& executable, const Graph* before) {
  const CompileReport& report = executable.report();
  Cost total;
  int reference = 0;
  for (const auto& choice : report.choices) {
    total.flops += choice.cost.flops;
    total.bytes += choice.cost.bytes;
    reference += choice.kernel == "reference";
  }
  std::vector<Fact> out;
  if (before) out.push_back({"before", fmt::format("{} nodes: {}", before->size(), census(*before))});
  out.push_back({"after", fmt::format("{} nodes: {}", executable.graph().size(), census(executable.graph()))});
  out.push_back({"instructions", fmt::format("{}, of which {} run the reference", executable.instructions().size(), reference)});
  out.push_back({"work", fmt::format("{:.4g} Gflop, {} moved at least", total.flops / 1e9, memory_bytes(total.bytes))});
  out.push_back({"weights", fmt::format("{}, of which packed by kernels {}", memory_bytes(static_cast<double>(report.weight_bytes)),
                                        memory_bytes(static_cast<double>(report.packed_bytes)))});
  out.push_back({"states", memory_bytes(static_cast<double>(report.state_bytes))});
  out.push_back({"arena", fmt::format("{} = {:.3f} x the liveness lower bound {}; {} values in place",
                                      memory_bytes(static_cast<double>(report.arena_bytes)), executable.memory().ratio(),
                                      memory_bytes(static_cast<double>(report.lower_bound)), executable.memory().in_place)});
  out.push_back({"machine", cpu_description()});
  if (report.compile_ms > 0) out.push_back({"compiled in", fmt::format("{:.1f} ms", report.compile_ms)});
  return out;
}

std::string heading(const std::string& text) { return fmt::format("\n{}\n{}\n", text, std::string(text.size(), '-')); }

std::string as_text(const std::string& title, const Executable& executable, const Graph* before) {
  const CompileReport& report = executable.report();
  const Graph& graph = executable.graph();
  std::string out = title + "\n" + std::string(title.size(), '=') + "\n";
  for (const Fact& fact : facts(executable, before)) out += fmt::format("{:<13} {}\n", fact.name, fact.value);
  if (!report.passes.empty()) {
    out += heading("Passes") + fmt::format("{:<12} {:>9} {:>7} {:>7}  {}\n", "pass", "ms", "before", "after", "note");
    for (const PassRecord& pass : report.passes)
      out += fmt::format("{:<12} {:>9.2f} {:>7} {:>7}  {}\n", pass.name, pass.milliseconds, pass.nodes_before, pass.nodes_after,
                         pass.skipped ? "switched off" : pass.note);
    // A reason that repeats layer by layer is told once.
    std::vector<std::pair<const Refusal*, int>> refused;
    std::map<std::pair<std::string, std::string>, std::size_t> told;
    for (const PassRecord& pass : report.passes)
      for (const Refusal& refusal : pass.refusals) {
        const auto [at, first] = told.emplace(std::pair(refusal.pass, refusal.reason), refused.size());
        if (first) refused.emplace_back(&refusal, 0);
        else ++refused[at->second].second;
      }
    if (!refused.empty()) out += heading("Refused by passes");
    for (const auto& [refusal, more] : refused)
      out += fmt::format("{}: {}: {}{}\n", refusal->pass, refusal->candidate, refusal->reason,
                         more ? fmt::format(" (and {} more)", more) : "");
    for (const PassRecord& pass : report.passes) {
      if (!pass.details.empty()) out += heading(fmt::format("Decided by {}", pass.name));
      for (const std::string& line : pass.details) out += line + "\n";
    }
  }
  if (before) out += heading("Graph before the passes") + to_text(*before, kReadable);
  out += heading("Graph after the passes") + to_text(graph, kReadable);
  out += heading("Kernels") + fmt::format("{:>5} {:<26} {:<34} {:>10} {:>10}  {}\n", "node", "op", "kernel", "Mflop", "MB", "result");
  std::set<std::string> explained;   // what was said of a node of an earlier layer is not said again
  for (const auto& choice : report.choices) {
    const Node& node = graph.node(choice.node);
    out += fmt::format("{:>5} {:<26} {:<34} {:>10.3f} {:>10.3f}  {}\n", fmt::format("%{}", choice.node), label(graph, choice.node),
                       choice.kernel, choice.cost.flops / 1e6, choice.cost.bytes / 1e6, result_types(node));
    if (!explained.insert(label(graph, choice.node) + choice.kernel + choice.detail + refusals(choice)).second) continue;
    if (!choice.detail.empty()) out += fmt::format("{:>33}{}\n", "", choice.detail);
    for (const KernelRefusal& refusal : choice.refused) out += fmt::format("{:>33}not {}: {}\n", "", refusal.candidate, refusal.reason);
  }
  return out;
}

constexpr std::string_view kStyle =
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color:#1c2733}"
    "table{border-collapse:collapse;width:100%;font-size:13px}td,th{border-bottom:1px solid #dde3ea;padding:.25rem .5rem;text-align:left;"
    "vertical-align:top}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}pre{background:#f5f7fa;padding:1rem;overflow:auto;"
    "font-size:12px;line-height:1.4}summary{cursor:pointer;font-weight:600;margin:.6rem 0}.why{color:#8a5a00}.ref{color:#b00020;"
    "font-weight:600}svg{max-width:100%;height:auto}";

std::string as_html(const std::string& title, const Executable& executable, const Graph* before) {
  const CompileReport& report = executable.report();
  const Graph& graph = executable.graph();
  std::string out = fmt::format("<h1>{}</h1><table>", html_escape(title));
  for (const Fact& fact : facts(executable, before))
    out += fmt::format("<tr><th>{}</th><td>{}</td></tr>", html_escape(fact.name), html_escape(fact.value));
  out += "</table><h2>Memory map</h2><p>One rectangle a buffer, grey ones a kernel's scratch: nodes executed across, bytes of the arena up. "
         "Point at one to see what lives there.</p>";
  out += memory_map_svg(graph, executable.memory());
  if (!report.passes.empty()) {
    out += "<h2>Passes</h2><table><tr><th>pass</th><th class=n>ms</th><th class=n>nodes before</th><th class=n>after</th><th>note</th></tr>";
    for (const PassRecord& pass : report.passes)
      out += fmt::format("<tr><td>{}</td><td class=n>{:.2f}</td><td class=n>{}</td><td class=n>{}</td><td>{}</td></tr>", html_escape(pass.name),
                         pass.milliseconds, pass.nodes_before, pass.nodes_after, pass.skipped ? "switched off" : html_escape(pass.note));
    out += "</table>";
    std::string refused;
    for (const PassRecord& pass : report.passes)
      for (const Refusal& refusal : pass.refusals)
        refused += fmt::format("<tr><td>{}</td><td>{}</td><td class=why>{}</td></tr>", html_escape(refusal.pass), html_escape(refusal.candidate),
                               html_escape(refusal.reason));
    if (!refused.empty())
      out += "<details><summary>Candidates the passes refused, and why</summary><table><tr><th>pass</th><th>candidate</th><th>reason</th></tr>" +
             refused + "</table></details>";
    for (const PassRecord& pass : report.passes) {
      if (pass.details.empty()) continue;
      std::string lines;
      for (const std::string& line : pass.details) lines += html_escape(line) + "\n";
      out += fmt::format("<details><summary>What {} decided, node by node</summary><pre>{}</pre></details>", html_escape(pass.name), lines);
    }
  }
  if (before) out += "<details><summary>Graph before the passes</summary><pre>" + html_escape(to_text(*before, kReadable)) + "</pre></details>";
  out += "<details open><summary>Graph after the passes</summary><pre>" + html_escape(to_text(graph, kReadable)) + "</pre></details>";
  out += "<h2>Kernels</h2><table><tr><th class=n>node</th><th>op</th><th>kernel</th><th class=n>Mflop</th><th class=n>MB</th><th>result</th>"
         "<th>refused</th></tr>";
  for (const auto& choice : report.choices) {
    const std::string kernel = choice.kernel == "reference" ? "<span class=ref>reference</span>" : html_escape(choice.kernel);
    out += fmt::format("<tr><td class=n>%{}</td><td>{}<br><small>{}</small></td><td>{}<br><small>{}</small></td><td class=n>{:.3f}</td>"
                       "<td class=n>{:.3f}</td><td>{}</td><td class=why>{}</td></tr>",
                       choice.node, html_escape(label(graph, choice.node)), html_escape(graph.node(choice.node).scope), kernel,
                       html_escape(choice.detail), choice.cost.flops / 1e6, choice.cost.bytes / 1e6, html_escape(result_types(graph.node(choice.node))),
                       html_escape(refusals(choice)));
  }
  return out + "</table>\n";
}

}  // namespace

Explanation explain(const std::vector<ExplainPart>& parts) {
  Explanation out;
  out.html = fmt::format("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{}</title><style>{}</style>\n",
                         parts.empty() ? "" : html_escape(parts[0].title), kStyle);
  for (const ExplainPart& part : parts) {
    out.text += (out.text.empty() ? "" : "\n") + as_text(part.title, *part.executable, part.before);
    out.html += as_html(part.title, *part.executable, part.before);
  }
  out.html += "</html>\n";
  return out;
}

}  // namespace rhetor
