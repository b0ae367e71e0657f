// Printing. The grammar (parse.cc reads it):
//   graph  := "graph" "{" { line } "}"
//   line   := "#" scope                                   scope of the nodes that follow
//           | "%"N "=" ("input"|"param"|"state") string ["init" string] ":" type
//           | "%"N "=" op "(" [operand {"," operand}] ")" ["{" [name "=" value {"," ...}] "}"] ":" type {"," type}
//           | "output" string "=" operand
//           | "update" string "=" operand                 new value of the state with that name
//   operand:= "%"N ["." K] | "_"                          result K (default 0) of node N; absent
//   type   := dtype "[" [ [name ":"] size {"," ...} ] "]"
//   value  := integer | real | "true" | "false" | string | "[" integers "]" | "reals" "[" reals "]" | dtype
//           | type "{" elements "}" | type "x" string     tensor: decimal, or its bytes in hex, little-endian
//           | graph
// A real has a '.', an 'e', or is inf, -inf or 0x followed by its bits (NaN); that tells it from an integer.
#include "graph/text.h"

#include <algorithm>

#include <cmath>

namespace rhetor {
namespace {

constexpr std::int64_t kDecimalElements = 64;  // longer constants are written as hex: smaller, and quick to read

std::string quote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out.append(1, '\\').append(1, c);
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    else out += c;
  }
  return out + '"';
}

std::string real_text(double v) {
  if (std::isnan(v)) return fmt::format("{:#018x}", std::bit_cast<std::uint64_t>(v));
  std::string out = fmt::format("{}", v);  // shortest that reads back the same
  if (out.find_first_of(".en") == std::string::npos) out += ".0";
  return out;
}

template <class T>
void append_element(std::string& out, T value) {
  if constexpr (requires { value.to_float(); }) {
    const float v = value.to_float();
    out += std::isnan(v) ? fmt::format("{:#x}", value.bits) : fmt::format("{}", v);
  } else if constexpr (std::is_floating_point_v<T>) {
    using Bits = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;
    out += std::isnan(value) ? fmt::format("{:#x}", std::bit_cast<Bits>(value)) : fmt::format("{}", value);
  } else {
    out += std::to_string(static_cast<std::int64_t>(value));
  }
}

std::string tensor_text(const Tensor& tensor, int limit) {
  std::string out = tensor.type().str();
  const std::int64_t count = tensor.elements();
  if (limit >= 0 && count > limit) return out + " ...";
  if (count > kDecimalElements) {
    constexpr char digits[] = "0123456789abcdef";
    out += " x\"";
    const auto* bytes = static_cast<const unsigned char*>(tensor.raw());
    for (std::size_t i = 0; i < tensor.bytes(); ++i) out.append(1, digits[bytes[i] >> 4]).append(1, digits[bytes[i] & 15]);
    return out + '"';
  }
  out += " {";
  dispatch(tensor.dtype(), [&](auto zero) {
    bool first = true;
    for (const auto value : tensor.data<decltype(zero)>()) {
      if (!first) out += ", ";
      first = false;
      append_element(out, value);
    }
  });
  return out + '}';
}

class Printer {
 public:
  explicit Printer(const TextOptions& options) : options_(options) {}

  void graph(const Graph& g, std::string_view indent) {
    out_ += "graph {\n";
    const std::string inner = std::string(indent) + "  ";
    std::string scope;
    for (std::int32_t i = 0; i < g.size(); ++i) {
      if (options_.scopes && g.node(i).scope != scope) {
        scope = g.node(i).scope;
        std::string text = quote(scope);  // escapes, without the quotes
        out_.append(inner).append("#").append(scope.empty() ? "" : " ").append(text, 1, text.size() - 2).append("\n");
      }
      out_ += fmt::format("{}%{} = ", inner, i);
      g.is_input(i) ? input(g, i) : node(g, i, inner);
      out_ += '\n';
    }
    for (const GraphOutput& o : g.outputs()) out_ += fmt::format("{}output {} = {}\n", inner, quote(o.name), operand(o.value));
    for (const StateUpdate& u : g.updates())
      out_ += fmt::format("{}update {} = {}\n", inner, quote(g.input_name(u.state)), operand(u.value));
    out_.append(indent).append("}");
  }

  std::string take() { return std::move(out_); }

 private:
  static std::string operand(ValueId v) {
    if (!v.valid()) return "_";
    return v.output ? fmt::format("%{}.{}", v.node, v.output) : fmt::format("%{}", v.node);
  }

  void input(const Graph& g, std::int32_t i) {
    out_.append(name(g.input_kind(i))).append(" ").append(quote(g.input_name(i)));
    const std::string& init = g.node(i).attrs.s("init");
    if (!init.empty()) out_.append(" init ").append(quote(init));
    out_.append(" : ").append(g.node(i).outputs[0].str());
  }

  void node(const Graph& g, std::int32_t i, std::string_view indent) {
    const Node& node = g.node(i);
    out_.append(node.op->name).append("(");
    for (std::size_t k = 0; k < node.inputs.size(); ++k) out_.append(k ? ", " : "").append(operand(node.inputs[k]));
    out_ += ')';
    if (node.attrs.size()) {
      out_ += " {";
      bool first = true;
      for (const auto& [key, value] : node.attrs) {
        out_.append(first ? "" : ", ").append(key).append(" = ");
        first = false;
        attribute(value, indent);
      }
      out_ += '}';
    }
    for (std::size_t k = 0; k < node.outputs.size(); ++k) out_.append(k ? ", " : " : ").append(node.outputs[k].str());
  }

  void attribute(const AttrValue& value, std::string_view indent) {
    switch (kind_of(value)) {
      case AttrKind::integer: out_ += std::to_string(std::get<std::int64_t>(value)); return;
      case AttrKind::real: out_ += real_text(std::get<double>(value)); return;
      case AttrKind::boolean: out_ += std::get<bool>(value) ? "true" : "false"; return;
      case AttrKind::text: out_ += quote(std::get<std::string>(value)); return;
      case AttrKind::dtype: out_ += name(std::get<DType>(value)); return;
      case AttrKind::tensor: out_ += tensor_text(std::get<Tensor>(value), options_.max_constant_elements); return;
      case AttrKind::graph: graph(*std::get<GraphPtr>(value), indent); return;
      case AttrKind::integers: {
        out_ += '[';
        const auto& items = std::get<std::vector<std::int64_t>>(value);
        for (std::size_t k = 0; k < items.size(); ++k) out_.append(k ? ", " : "").append(std::to_string(items[k]));
        out_ += ']';
        return;
      }
      case AttrKind::reals: {
        out_ += "reals[";
        const auto& items = std::get<std::vector<double>>(value);
        for (std::size_t k = 0; k < items.size(); ++k) out_.append(k ? ", " : "").append(real_text(items[k]));
        out_ += ']';
        return;
      }
    }
  }

  const TextOptions& options_;
  std::string out_;
};

}  // namespace

std::string to_text(const Graph& graph, const TextOptions& options) {
  Printer printer(options);
  printer.graph(graph, "");
  return printer.take() + "\n";
}

}  // namespace rhetor
