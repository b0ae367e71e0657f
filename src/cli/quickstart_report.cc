#include "cli/quickstart_report.h"

#include <fmt/core.h>

#include "cli/output.h"

namespace rhetor {
namespace {

struct Row {
  std::string label, before, after;
};

std::vector<Row> rows_of(const QuickstartSummary& s) {
  const CompressReport& c = s.compression;
  return {
      {"weights", human_bytes(c.bytes_before), human_bytes(c.bytes_after)},
      {"loss on its text", fmt::format("{:.4f}", c.loss_before), fmt::format("{:.4f}", c.loss_after)},
      {"decode tokens/s", fmt::format("{:.0f}", c.tokens_per_s_before), fmt::format("{:.0f}", c.tokens_per_s_after)},
      {"ms a token (p50)", fmt::format("{:.3f}", c.latency_ms_before), fmt::format("{:.3f}", c.latency_ms_after)},
  };
}

constexpr const char* kStyle = R"(<style>
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:860px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}table{border-collapse:collapse}
td,th{padding:.3rem .9rem;border-bottom:1px solid #8884;text-align:right}td:first-child,th:first-child{text-align:left}
blockquote{margin:.4rem 0 1rem;padding:.3rem 1rem;border-left:3px solid #36c}svg{max-width:100%;height:auto}
small{color:#888}pre{background:#8881;padding:.6rem;overflow:auto}
</style>)";

}  // namespace

std::string quickstart_card(const QuickstartSummary& s) {
  std::string out = fmt::format("\n{}: {} parameters, {} layers, hidden {}, vocabulary {}\n", s.text_name, s.training.parameters,
                                s.config.layers, s.config.hidden, s.config.vocab);
  out += fmt::format("trained {} steps, loss {:.3f} -> {:.3f} (validation {:.3f}), {:.0f} tokens/s\n\n", s.training.steps,
                     s.training.first_loss, s.training.last_loss, s.training.validation_loss, s.training.tokens_per_s);
  out += fmt::format("  {:<22}{:>12}{:>12}\n", "", "f32", "int8");
  for (const Row& row : rows_of(s)) out += fmt::format("  {:<22}{:>12}{:>12}\n", row.label, row.before, row.after);
  out += fmt::format("  {:<22}{:>12}{:>12}\n", "plan file", "", human_bytes(s.plan_bytes));
  out += fmt::format("  {:<22}{:>12}{:>9.0f} ms\n", "plan ready to answer", "", s.plan_open_ms);
  return out;
}

std::string quickstart_report(const QuickstartSummary& s, const std::string& curve_svg, const std::string& memory_svg) {
  std::string html = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">"
                     "<title>Rhetor quickstart</title>";
  html += kStyle;
  html += fmt::format("<h1>A model of {}</h1><p>{} parameters, {} layers, hidden {}, context {}, vocabulary {}. "
                      "Trained on {} of text, {} steps in {:.0f} s at {:.0f} tokens/s.</p><p><small>{}</small></p>",
                      html_escape(s.text_name), s.training.parameters, s.config.layers, s.config.hidden, s.config.context, s.config.vocab,
                      human_bytes(s.text_bytes), s.training.steps, s.training.seconds, s.training.tokens_per_s, html_escape(s.machine));
  html += "<h2>Loss</h2>" + curve_svg;
  html += "<h2>Before and after compression</h2><table><tr><th></th><th>f32</th><th>int8</th></tr>";
  for (const Row& row : rows_of(s)) html += fmt::format("<tr><td>{}</td><td>{}</td><td>{}</td></tr>", row.label, row.before, row.after);
  html += fmt::format("</table><p>Compiled in {:.0f} ms; the plan file has {} and is ready to answer {:.0f} ms after it is opened.</p>",
                      s.compile_ms, human_bytes(s.plan_bytes), s.plan_open_ms);
  html += "<h2>Answers from the plan</h2>";
  for (const QuickstartAnswer& a : s.answers)
    html += fmt::format("<p><b>{}</b></p><blockquote>{}<br><small>first token {:.1f} ms, {:.0f} tokens/s</small></blockquote>",
                        html_escape(a.prompt), html_escape(a.answer), a.first_token_ms, a.tokens_per_s);
  html += "<h2>Memory of one decode step</h2><p>Time runs to the right, bytes upwards; each box is one value.</p>" + memory_svg;
  html += fmt::format("<p><small>Whole run: {:.0f} s.</small></p></html>\n", s.total_seconds);
  return html;
}

}  // namespace rhetor
