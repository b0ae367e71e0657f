#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "parallel/buckets.h"

namespace rhetor {
namespace {

std::string xml(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '&') out += "&amp;";
    else if (c == '"') out += "&quot;";
    else if (static_cast<unsigned char>(c) < ' ') out += '?';   // XML has no way to write these
    else out += c;
  }
  return out;
}

// 1, 2 or 5 times a power of ten, so that the axis has some ten marks.
double nice_step(double whole) {
  const double power = std::pow(10.0, std::floor(std::log10(std::max(whole, 1e-9) / 10)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (whole / (power * factor) <= 12) return power * factor;
  return power * 10;
}

constexpr double kLeft = 130, kWidth = 900, kTop = 58, kLane = 22, kChoice = 78;
constexpr std::array<const char*, 2> kBackward{"#4e79a7", "#86a6c9"}, kTravel{"#59a14f", "#8cc084"};
constexpr const char* kTail = "#e15759";

struct Axis {
  double whole;   // seconds
  double x(double seconds) const { return kLeft + seconds / whole * kWidth; }
  std::string box(double from, double to, double y, double height, const char* fill, const std::string& tooltip) const {
    return fmt::format("<rect x=\"{:.2f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{:.1f}\" fill=\"{}\"><title>{}</title></rect>\n", x(from), y,
                       std::max(0.3, x(to) - x(from)), height, fill, xml(tooltip));
  }
};

std::string span_name(std::span<const BackwardLayer> layers, const BucketTime& bucket) {
  const auto& first = layers[static_cast<std::size_t>(bucket.first)].name;
  const auto& last = layers[static_cast<std::size_t>(bucket.last)].name;
  return bucket.first == bucket.last ? first : fmt::format("{} .. {} ({} units)", first, last, bucket.last - bucket.first + 1);
}

}  // namespace

std::string overlap_svg(std::span<const BackwardLayer> layers, const CommModel& model, std::span<const NamedBuckets> choices) {
  Axis axis{1e-9};
  std::vector<BucketTimeline> timelines;
  for (const NamedBuckets& choice : choices) {
    timelines.push_back(simulate_buckets(layers, choice.ends, model));
    axis.whole = std::max(axis.whole, timelines.back().backward + timelines.back().tail);
  }
  const double height = kTop + kChoice * static_cast<double>(choices.size()) + 40;
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0f} {:.0f}\" "
      "font-family=\"sans-serif\" font-size=\"12\">\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
      "<text x=\"10\" y=\"20\" font-size=\"15\">Backward and communication: {} units; all-reduce of n bytes takes {}</text>\n",
      kLeft + kWidth + 30, height, layers.size(), xml(model.str()));
  double legend = 10;
  for (const auto& [fill, text] : {std::pair{kBackward[0], "backward"}, {kTravel[0], "a bucket travels"}, {kTail, "exposed tail"}}) {
    svg += fmt::format("<rect x=\"{0:.0f}\" y=\"30\" width=\"12\" height=\"12\" fill=\"{1}\"/><text x=\"{2:.0f}\" y=\"40\">{3}</text>\n", legend, fill,
                       legend + 16, text);
    legend += 130;
  }
  const double bottom = height - 34, step = nice_step(axis.whole);
  for (double at = 0; at <= axis.whole * 1.0001; at += step)
    svg += fmt::format("<line x1=\"{0:.2f}\" y1=\"{1}\" x2=\"{0:.2f}\" y2=\"{2:.0f}\" stroke=\"#ddd\"/>"
                       "<text x=\"{0:.2f}\" y=\"{3:.0f}\" text-anchor=\"middle\">{4:.6g}</text>\n",
                       axis.x(at), kTop - 6, bottom, bottom + 15, at * 1e3);
  svg += fmt::format("<text x=\"{:.0f}\" y=\"{:.0f}\" text-anchor=\"middle\">ms</text>\n", kLeft + kWidth / 2, bottom + 30);

  for (std::size_t c = 0; c < choices.size(); ++c) {
    const BucketTimeline& timeline = timelines[c];
    const double y = kTop + kChoice * static_cast<double>(c);
    svg += fmt::format("<text x=\"10\" y=\"{:.0f}\" font-weight=\"bold\">{}</text><text x=\"10\" y=\"{:.0f}\">{} {}</text>"
                       "<text x=\"10\" y=\"{:.0f}\" fill=\"{}\">tail {:.3f} ms</text>\n",
                       y + 14, xml(choices[c].name), y + 29, choices[c].ends.size(), choices[c].ends.size() == 1 ? "bucket" : "buckets", y + 44, kTail,
                       timeline.tail * 1e3);
    double at = 0;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const double end = at + layers[i].seconds;
      svg += axis.box(at, end, y, kLane, kBackward[i % 2],
                      fmt::format("{}: {:.3f} ms, {:.3f} MB", layers[i].name, layers[i].seconds * 1e3, layers[i].bytes / 1e6));
      at = end;
    }
    for (std::size_t b = 0; b < timeline.buckets.size(); ++b) {
      const BucketTime& bucket = timeline.buckets[b];
      svg += axis.box(bucket.start, bucket.finish, y + kLane + 3, kLane, kTravel[b % 2],
                      fmt::format("{}: {:.3f} MB, ready {:.3f} ms, {:.3f} to {:.3f} ms",
                                  span_name(layers, bucket), bucket.bytes / 1e6,
                                  bucket.ready * 1e3, bucket.start * 1e3, bucket.finish * 1e3));
    }
    svg += axis.box(timeline.backward, timeline.backward + timeline.tail, y + 2 * kLane + 6, 5, kTail, fmt::format("tail {:.3f} ms", timeline.tail * 1e3));
  }
  return svg + "</svg>\n";
}

}  // namespace rhetor
