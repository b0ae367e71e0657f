#include <algorithm>
#include <map>

#include "base/display.h"
#include "graph/op.h"
#include "passes/memory.h"

namespace rhetor {
namespace {

// One colour a kind of op: what fills the arena is seen at a glance.
std::string_view colour(OpKind kind) {
  switch (kind) {
    case OpKind::contraction: return "#4e79a7";
    case OpKind::pointwise: return "#59a14f";
    case OpKind::reduction: return "#edc948";
    case OpKind::layout: return "#b07aa1";
    case OpKind::broadcast: return "#9c755f";
    case OpKind::opaque: return "#f28e2b";
    default: return "#bab0ac";
  }
}

constexpr std::string_view kScratch = "#9aa0a6";

// Column of every node: how many executed nodes go before it. Inputs, parameters and constants are there before the run, an alias
// is its operand's memory under another type (unless it must be copied): neither takes time. One entry more than nodes: how many
// columns.
std::vector<std::int32_t> columns_of(const Graph& graph, const MemoryPlan& plan) {
  std::vector<std::int32_t> out = {0};
  for (std::int32_t i = 0; i < graph.size(); ++i) {
    const Node& node = graph.node(i);
    const bool view = node.op->traits.alias && plan.places[static_cast<std::size_t>(i)][0].root != ValueId{i, 0};
    out.push_back(out.back() + !(view || graph.is_input(i) || node.op->name == "constant"));
  }
  return out;
}

// A box over the columns [from, to) and the bytes [offset, offset + bytes), with a tooltip.
struct Picture {
  double steps, bytes;
  static constexpr double width = 1000, height = 480, left = 70, top = 54;
  double x(double step) const { return left + step / steps * width; }
  double y(double offset) const { return top + height - offset / bytes * height; }
  std::string box(std::int32_t from, std::int32_t to, std::uint64_t offset, std::uint64_t size, std::string_view fill,
                  std::string_view tooltip) const {
    const double x0 = x(from), x1 = x(to), y0 = y(static_cast<double>(offset + size)), y1 = y(static_cast<double>(offset));
    return fmt::format("<rect x=\"{:.2f}\" y=\"{:.2f}\" width=\"{:.2f}\" height=\"{:.2f}\" fill=\"{}\" fill-opacity=\"0.8\" "
                       "stroke=\"white\" stroke-width=\"0.4\"><title>{}</title></rect>\n",
                       x0, y0, std::max(0.5, x1 - x0), std::max(0.5, y1 - y0), fill, html_escape(tooltip));
  }
};

}  // namespace

std::string memory_map_svg(const Graph& graph, const MemoryPlan& plan) {
  const std::vector<std::int32_t> column = columns_of(graph, plan);
  const Picture picture{.steps = std::max<double>(1, column.back()),
                        .bytes = std::max<double>(64, static_cast<double>(plan.arena_bytes))};
  constexpr double width = Picture::width, height = Picture::height, left = Picture::left, top = Picture::top;
  const auto x = [&](double step) { return picture.x(step); };
  const auto y = [&](double offset) { return picture.y(offset); };

  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"12\">\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
      "<text x=\"{}\" y=\"20\" font-size=\"15\">Memory map: arena {}, liveness lower bound {} (ratio {:.3f}), {} values in "
      "place</text>\n",
      left + width + 20, top + height + 60, left, memory_bytes(static_cast<double>(plan.arena_bytes)),
      memory_bytes(static_cast<double>(plan.lower_bound)), plan.ratio(), plan.in_place);

  // Legend and axes.
  double legend = left;
  const auto entry = [&](std::string_view fill, std::string_view text) {
    svg += fmt::format(
        "<rect x=\"{0:.0f}\" y=\"30\" width=\"12\" height=\"12\" fill=\"{1}\"/><text x=\"{2:.0f}\" y=\"40\">{3}</text>\n", legend,
        fill, legend + 16, text);
    legend += 110;
  };
  for (const OpKind kind :
       {OpKind::contraction, OpKind::pointwise, OpKind::reduction, OpKind::layout, OpKind::broadcast, OpKind::opaque})
    entry(colour(kind), name(kind));
  entry(kScratch, "scratch");
  for (int i = 0; i <= 4; ++i) {
    const double offset = picture.bytes * i / 4;
    svg += fmt::format("<line x1=\"{0}\" y1=\"{1:.1f}\" x2=\"{2}\" y2=\"{1:.1f}\" stroke=\"#ddd\"/>"
                       "<text x=\"{3}\" y=\"{4:.1f}\" text-anchor=\"end\">{5}</text>\n",
                       left, y(offset), left + width, left - 6, y(offset) + 4, memory_bytes(static_cast<double>(offset)));
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n", x(picture.steps * i / 4),
                       top + height + 18, column.back() * i / 4);
  }
  svg +=
      fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">nodes executed</text>\n", left + width / 2, top + height + 40);

  // One rectangle a buffer: its members (aliases, results in place) are listed in the tooltip.
  std::map<ValueId, std::string> members;
  for (std::int32_t i = 0; i < graph.size(); ++i)
    for (std::size_t k = 0; k < plan.places[static_cast<std::size_t>(i)].size(); ++k) {
      const ValuePlace& place = plan.places[static_cast<std::size_t>(i)][k];
      if (place.place != Place::arena) continue;
      const Node& node = graph.node(i);
      std::string& text = members[place.root];
      if (text.size() > 600) continue;
      if (!text.empty()) text += "\n";
      text += fmt::format("%{} {} {}", i, node.op->name, node.outputs[k].str());
      if (!node.scope.empty()) text += "  in " + node.scope;
    }
  for (const auto& [root, text] : members) {
    const ValuePlace& place = plan.places[static_cast<std::size_t>(root.node)][static_cast<std::size_t>(root.output)];
    const std::int32_t last = std::min(place.dies, graph.size() - 1);
    svg += picture.box(column[static_cast<std::size_t>(place.born)], column[static_cast<std::size_t>(last) + 1], place.offset,
                       place.bytes, colour(graph.node(root).op->traits.kind),
                       fmt::format("{}\n{} at {}, nodes %{} to %{}", text, memory_bytes(static_cast<double>(place.bytes)),
                                   place.offset, place.born, last));
  }
  for (std::int32_t i = 0; i < graph.size(); ++i) {
    const std::uint64_t size = plan.scratch_bytes[static_cast<std::size_t>(i)],
                        offset = plan.scratch_offset[static_cast<std::size_t>(i)];
    if (size == 0) continue;
    svg += picture.box(
        column[static_cast<std::size_t>(i)], column[static_cast<std::size_t>(i) + 1], offset, size, kScratch,
        fmt::format("scratch of %{} {}\n{} at {}", i, graph.node(i).op->name, memory_bytes(static_cast<double>(size)), offset));
  }
  const double bound = y(static_cast<double>(plan.lower_bound));
  svg += fmt::format(
      "<line x1=\"{0}\" y1=\"{1:.1f}\" x2=\"{2}\" y2=\"{1:.1f}\" stroke=\"#e15759\" stroke-dasharray=\"6 4\">"
      "<title>liveness lower bound {3}</title></line>\n</svg>\n",
      left, bound, left + width, memory_bytes(static_cast<double>(plan.lower_bound)));
  return svg;
}

}  // namespace rhetor
