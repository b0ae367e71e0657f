#include "train/curve.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string_view>
#include <utility>
#include <vector>

#include "base/display.h"

namespace rhetor {
namespace {

constexpr double kWidth = 760, kHeight = 380, kLeft = 56, kRight = 20, kTop = 40, kBottom = 44;
constexpr std::size_t kMaxPoints = 600;  // more would not be seen

struct Frame {
  double max_step = 1, low = 0, high = 1;
  double x(double step) const { return kLeft + (kWidth - kLeft - kRight) * step / max_step; }
  double y(double loss) const {
    return kHeight - kBottom - (kHeight - kTop - kBottom) * (std::clamp(loss, low, high) - low) / (high - low);
  }
};

// Neighbours are averaged so that at most kMaxPoints are drawn.
std::vector<CurvePoint> thin(const std::vector<CurvePoint>& points) {
  const std::size_t group = (points.size() + kMaxPoints - 1) / kMaxPoints;
  if (group <= 1) return points;
  std::vector<CurvePoint> out;
  for (std::size_t i = 0; i < points.size(); i += group) {
    const std::size_t end = std::min(points.size(), i + group);
    double sum = 0;
    for (std::size_t j = i; j < end; ++j) sum += points[j].loss;
    out.push_back({points[(i + end - 1) / 2].step, sum / static_cast<double>(end - i)});
  }
  return out;
}

std::string polyline(const Frame& frame, const std::vector<CurvePoint>& points, const char* style) {
  std::string out = fmt::format("<polyline class=\"{}\" points=\"", style);
  for (const auto& p : points) out += fmt::format("{:.1f},{:.1f} ", frame.x(static_cast<double>(p.step)), frame.y(p.loss));
  return out + "\"/>\n";
}

// 1, 2 or 5 times a power of ten, about `count` of them in `span`.
double tick_step(double span, int count) {
  const double raw = span / count, power = std::pow(10.0, std::floor(std::log10(raw)));
  for (const double m : {1.0, 2.0, 5.0}) {
    if (raw <= m * power) return m * power;
  }
  return 10 * power;
}

std::vector<CurvePoint> moving_average(const std::vector<CurvePoint>& points, double alpha) {
  std::vector<CurvePoint> out;
  double average = 0;
  for (std::size_t i = 0; i < points.size(); ++i) {
    average = smooth(average, points[i].loss, static_cast<std::int64_t>(i), alpha);
    out.push_back({points[i].step, average});
  }
  return out;
}

// The ticks of both axes.
std::string axes(const Frame& frame) {
  std::string svg;
  const double dy = tick_step(frame.high - frame.low, 6);
  for (double v = std::ceil(frame.low / dy) * dy; v <= frame.high; v += dy) {
    svg += fmt::format(
        "<line x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/><text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{:g}</text>\n",
        kLeft, kWidth - kRight, frame.y(v), frame.y(v), kLeft - 8, frame.y(v) + 4, std::round(v / dy) * dy);
  }
  const double dx = std::max(1.0, tick_step(frame.max_step, 8));
  for (double v = 0; v <= frame.max_step; v += dx) {
    svg += fmt::format(
        "<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\"/><text x=\"{0:.1f}\" y=\"{3}\" "
        "text-anchor=\"middle\">{4:.0f}</text>\n",
        frame.x(v), kHeight - kBottom, kHeight - kBottom + 4, kHeight - kBottom + 18, v);
  }
  return svg + fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">step</text>\n", kWidth - kRight, kHeight - 8);
}

}  // namespace

std::string loss_curve_svg(const MetricsHistory& history, const std::string& title) {
  std::vector<CurvePoint> raw;
  for (const auto& p : history.train) {
    if (std::isfinite(p.loss)) raw.push_back(p);
  }
  std::vector<CurvePoint> smoothed = moving_average(raw, 0.1);
  raw = thin(raw);
  smoothed = thin(smoothed);
  Frame frame;
  double low = 1e30, high = -1e30;
  if (!raw.empty()) {
    // All but the wildest two in a hundred of the raw losses must fit: a single spike would press everything else flat.
    std::vector<double> sorted;
    for (const auto& p : raw) sorted.push_back(p.loss);
    std::sort(sorted.begin(), sorted.end());
    const std::size_t cut = sorted.size() / 100;
    low = sorted[cut], high = sorted[sorted.size() - 1 - cut];
  }
  for (const std::vector<CurvePoint>* points : {&std::as_const(smoothed), &history.validation}) {
    for (const auto& p : *points) {
      if (!std::isfinite(p.loss)) continue;
      low = std::min(low, p.loss), high = std::max(high, p.loss);
      frame.max_step = std::max(frame.max_step, static_cast<double>(p.step));
    }
  }
  if (low > high) low = 0, high = 1;
  const double margin = std::max(0.05 * (high - low), 1e-3);
  frame.low = std::max(0.0, low - margin);
  frame.high = high + margin;

  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"loss-curve\" viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" "
      "height=\"{1:.0f}\" role=\"img\">\n"
      "<title>{2}</title>\n<style>\n"
      // Every rule is scoped: the picture may stand inside a page.
      ".loss-curve{{--page:#ffffff;--ink:#1f2328;--faint:#d0d7de;--train:#0969da;--valid:#cf222e;background:var(--page);font:"
      "12px system-ui,sans-serif}}\n"
      "@media(prefers-color-scheme:dark){{.loss-curve{{--page:#0d1117;--ink:#e6edf3;--faint:#30363d;--train:#58a6ff;--valid:#"
      "ff7b72}}}}\n"
      ".loss-curve text{{fill:var(--ink)}} .loss-curve line{{stroke:var(--faint)}} .loss-curve "
      "polyline{{fill:none;stroke-linejoin:round}}\n"
      ".loss-curve .raw{{stroke:var(--train);stroke-width:1;opacity:.25}} .loss-curve "
      ".train{{stroke:var(--train);stroke-width:2}}\n"
      ".loss-curve .valid{{stroke:var(--valid);stroke-width:2}} .loss-curve circle{{fill:var(--valid)}}\n</style>\n",
      kWidth, kHeight, html_escape(title));
  svg += fmt::format("<text x=\"{}\" y=\"20\" font-weight=\"600\">{}</text>\n", kLeft, html_escape(title));
  svg += axes(frame);
  svg += polyline(frame, raw, "raw") + polyline(frame, smoothed, "train");
  if (!history.validation.empty()) {
    svg += polyline(frame, history.validation, "valid");
    const auto& last = history.validation.back();
    svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\"/>\n", frame.x(static_cast<double>(last.step)),
                       frame.y(last.loss));
  }
  double legend = kWidth - kRight - 310;   // 205 for the first label in a wide system font, 105 for the second
  for (const auto& [style, label] : {std::pair{"train", "training loss (smoothed)"}, std::pair{"valid", "validation"}}) {
    if (style[0] == 'v' && history.validation.empty()) continue;
    svg += fmt::format("<polyline class=\"{}\" points=\"{:.0f},16 {:.0f},16\"/><text x=\"{:.0f}\" y=\"20\">{}</text>\n", style,
                       legend, legend + 20, legend + 26, label);
    legend += 205;
  }
  return svg + "</svg>\n";
}

std::string compared_curves_svg(const std::vector<LabelledCurve>& curves, const std::string& title) {
  // Okabe and Ito's colours, told apart by every eye, on light and on dark.
  constexpr std::string_view kColours[] = {"#888888", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"};
  std::vector<std::string> labels;
  std::vector<std::vector<CurvePoint>> smoothed;
  Frame frame;
  for (const LabelledCurve& curve : curves) {
    if (std::find(labels.begin(), labels.end(), curve.label) == labels.end()) labels.push_back(curve.label);
    std::vector<CurvePoint> finite;
    for (const CurvePoint& p : curve.points)
      if (std::isfinite(p.loss)) finite.push_back(p);
    smoothed.push_back(thin(moving_average(finite, 0.03)));
    for (const CurvePoint& p : finite) frame.max_step = std::max(frame.max_step, static_cast<double>(p.step));
  }
  double low = 1e30, high = -1e30;
  for (const auto& points : smoothed)
    for (const CurvePoint& p : points)
      if (static_cast<double>(p.step) >= 0.1 * frame.max_step) low = std::min(low, p.loss), high = std::max(high, p.loss);
  if (low > high) low = 0, high = 1;
  const double margin = std::max(0.05 * (high - low), 1e-3);
  frame.low = std::max(0.0, low - margin);
  frame.high = high + margin;
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"curves\" viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" height=\"{1:.0f}\" "
      "role=\"img\">\n<title>{2}</title>\n<style>\n"
      ".curves{{--page:#ffffff;--ink:#1f2328;--faint:#d0d7de;background:var(--page);font:12px system-ui,sans-serif}}\n"
      "@media(prefers-color-scheme:dark){{.curves{{--page:#0d1117;--ink:#e6edf3;--faint:#30363d}}}}\n"
      ".curves text{{fill:var(--ink)}} .curves line{{stroke:var(--faint)}} .curves polyline{{fill:none;stroke-width:1.4;"
      "stroke-linejoin:round}}\n",
      kWidth, kHeight, html_escape(title));
  for (std::size_t i = 0; i < labels.size(); ++i)
    svg += fmt::format(".curves .c{}{{stroke:{}}}\n", i, kColours[i % std::size(kColours)]);
  svg += fmt::format("</style>\n<text x=\"{}\" y=\"20\" font-weight=\"600\">{}</text>\n{}", kLeft, html_escape(title), axes(frame));
  for (std::size_t k = 0; k < curves.size(); ++k) {
    const auto label = std::find(labels.begin(), labels.end(), curves[k].label) - labels.begin();
    svg += polyline(frame, smoothed[k], fmt::format("c{}", label).c_str());
  }
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const double y = kTop + 14 + 18 * static_cast<double>(i), x = kWidth - kRight - 150;
    svg += fmt::format("<polyline class=\"c{0}\" points=\"{1:.0f},{2:.0f} {3:.0f},{2:.0f}\"/><text x=\"{4:.0f}\" y=\"{5:.0f}\">{6}</text>\n", i, x,
                       y - 4, x + 20, x + 26, y, html_escape(labels[i]));
  }
  return svg + "</svg>\n";
}

}  // namespace rhetor
