#include <algorithm>

#include "base/error.h"
#include "cuda/codegen_text.h"

namespace rhetor::gpu {
namespace {

constexpr std::size_t kMost = 400;  // statements; beyond, compiling takes longer than it saves

[[noreturn]] void refuse(std::string reason) { throw Refused{std::move(reason)}; }

}  // namespace

std::string KernelOperands::parameters(const std::vector<DType>& results, bool apart) const {
  std::string out;
  const std::string_view star = apart ? "* __restrict__" : "*";
  const auto add = [&](std::string parameter) { out += (out.empty() ? "" : ", ") + parameter; };
  for (std::size_t k = 0; k < inputs.size(); ++k) add(fmt::format("const {}{} a{}", cell_type(dtypes[k]), star, k));
  for (std::size_t k = 0; k < constants.size(); ++k) add(fmt::format("const {}{} b{}", cell_type(constants[k].dtype()), star, k));
  for (std::size_t k = 0; k < results.size(); ++k) add(fmt::format("{}{} r{}", cell_type(results[k]), star, k));
  for (std::size_t k = 0; k < numbers.size(); ++k) add(fmt::format("const u64 n{}", k));
  return out;
}

BodyWriter::BodyWriter(const Graph& body, const std::vector<ValueId>& inputs, const std::vector<DType>& storage,
                       const Shape& result, KernelOperands& operands, std::string prefix, bool fast)
    : body_(body),
      inputs_(inputs),
      storage_(storage),
      shape_(result),
      operands_(operands),
      prefix_(std::move(prefix)),
      fast_(fast) {}

std::string BodyWriter::value(ValueId v) {
  const Shape& shape = body_.type(v).shape;
  const int lead = shape_.rank() - shape.rank();
  DimMap map(static_cast<std::size_t>(shape_.rank()), -1);
  for (int d = 0; d < shape.rank(); ++d)
    if (shape[d] != 1 || shape_[d + lead] == 1) map[static_cast<std::size_t>(d + lead)] = d;
  return emit(v, map).name;
}

void BodyWriter::say(std::string_view what) { summary_ += (summary_.empty() ? "" : ", ") + std::string(what); }

Strides BodyWriter::strides_of(const Shape& shape, const DimMap& map) const {
  const auto own = shape.strides();
  Strides strides{};
  for (std::size_t d = 0; d < map.size(); ++d)
    if (map[d] >= 0 && shape[map[d]] != 1 && shape_[static_cast<int>(d)] != 1) strides[d] = own[static_cast<std::size_t>(map[d])];
  return strides;
}

bool BodyWriter::is_uniform(const Strides& strides) const {
  return std::all_of(strides.begin(), strides.end(), [](std::int64_t s) { return s == 0; });
}

BodyWriter::Var BodyWriter::emit(ValueId v, const DimMap& map) {
  const auto key = std::make_pair(v, map);
  if (const auto at = memo_.find(key); at != memo_.end()) return at->second;
  if (++depth_ > 1000) refuse("its chain of ops is too deep");
  const Var out = emit_new(v, map);
  --depth_;
  memo_.emplace(key, out);
  return out;
}

BodyWriter::Var BodyWriter::load(const std::string& pointer, DType dtype, const Shape& shape, const DimMap& map) {
  const Strides strides = strides_of(shape, map);
  operands_.largest = std::max(operands_.largest, shape.elements());
  loads_.push_back({fresh('x'), pointer, dtype, strides});
  say(fmt::format("{} {}", is_uniform(strides) ? "scalar" : "load", name(dtype)));
  return {loads_.back().name, is_uniform(strides)};
}

BodyWriter::Var BodyWriter::statement(Lane lane, std::string text, bool uniform, std::string_view op) {
  if (statements_.size() == kMost) refuse(fmt::format("it has more than {} values", kMost));
  statements_.push_back({lane_type(lane), fresh('t'), std::move(text), uniform});
  if (!op.empty()) {
    say(op);
    ops_ += (ops_.empty() ? "" : "_") + std::string(op);
  }
  return {statements_.back().name, uniform};
}

BodyWriter::Var BodyWriter::constant(const Tensor& value, const DimMap& map) {
  const auto* bytes = static_cast<const char*>(value.raw());
  const std::size_t size = byte_size(value.dtype());
  bool same = value.elements() > 0;
  for (std::int64_t i = 1; same && i < value.elements(); ++i)
    same = std::memcmp(bytes, bytes + static_cast<std::size_t>(i) * size, size) == 0;
  if (!same) {
    operands_.constants.push_back(value);
    return load(fmt::format("b{}", operands_.constants.size() - 1), value.dtype(), value.shape(), map);
  }
  if (value.dtype() == DType::i64) return {integer_literal(DType::i64, value.data<std::int64_t>()[0]), true};
  if (is_float(value.dtype())) return {literal(value.dtype(), value.at(0)), true};
  return {integer_literal(value.dtype(), static_cast<std::int64_t>(value.at(0))), true};
}

BodyWriter::Var BodyWriter::emit_new(ValueId v, const DimMap& map) {
  const Type& type = body_.type(v);
  for (std::size_t k = 0; k < inputs_.size(); ++k) {
    if (inputs_[k] != v) continue;
    const DType dtype = k < storage_.size() ? storage_[k] : type.dtype;
    if (lane_of(dtype) != lane_of(type.dtype)) refuse("an operand is stored in another kind of number");
    auto& slots = operands_.inputs;
    const auto slot = std::find(slots.begin(), slots.end(), static_cast<int>(k)) - slots.begin();
    if (slot == static_cast<std::ptrdiff_t>(slots.size())) {
      slots.push_back(static_cast<int>(k));
      operands_.dtypes.push_back(dtype);
    }
    return load(fmt::format("a{}", slot), dtype, type.shape, map);
  }
  const Node& node = body_.node(v);
  const std::string_view op = node.op->name;
  if (body_.is_constant(v.node)) return constant(node.attrs.tensor("value"), map);
  if (body_.is_input(v.node)) refuse(fmt::format("it reads input '{}', which is not an operand", body_.input_name(v.node)));
  if (op == "broadcast_to") {
    const Shape& in = body_.type(node.inputs[0]).shape;
    const int lead = type.shape.rank() - in.rank();
    DimMap inner = map;
    for (int& at : inner) {
      if (at < 0) continue;
      at -= lead;
      if (at < 0 || in[at] == 1) at = -1;
    }
    return emit(node.inputs[0], inner);
  }
  if (op == "cast") {
    const DType from = body_.type(node.inputs[0]).dtype;
    const Var x = emit(node.inputs[0], map);
    if (from == type.dtype) return x;
    const std::string text = cast_text(from, type.dtype, x.name);
    return text == x.name ? x : statement(lane_of(type.dtype), text, x.uniform, fmt::format("cast {}", name(type.dtype)));
  }
  if (op == "iota") return counted(node, type, map);
  if (op == "dropout" || op == "random_uniform" || op == "random_normal") return random(node, type, map);
  std::vector<std::string> operands;
  bool uniform = true;
  const DType dtype = node.inputs.empty() ? type.dtype : body_.type(node.inputs[op == "where" ? 1 : 0]).dtype;
  if (pointwise_text(op, dtype, fast_, {}).empty())
    refuse(fmt::format("'{}' of {} is not a pointwise op it knows", op, name(dtype)));
  for (const ValueId input : node.inputs) {
    const Var x = emit(input, map);
    operands.push_back(x.name);
    uniform = uniform && x.uniform;
  }
  return statement(gives_bool(op) ? Lane::i32 : lane_of(type.dtype), pointwise_text(op, dtype, fast_, operands), uniform, op);
}

// ---- random numbers and counters ----------------------------------------------------------------------
BodyWriter::Var BodyWriter::draw(const Node& node, std::size_t seed, const Shape& shape, const DimMap& map, int words) {
  const Var key = emit(node.inputs[seed], DimMap(map.size(), -1));
  auto& numbers = operands_.numbers;
  numbers.push_back(static_cast<std::uint64_t>(node.attrs.i("stream")));
  numbers.push_back(static_cast<std::uint64_t>(node.attrs.i("offset")) * static_cast<std::uint64_t>(words));
  draws_.push_back({fresh('w'), key.name, fmt::format("n{}", numbers.size() - 2), fmt::format("n{}", numbers.size() - 1),
                    strides_of(shape, map), words, static_cast<int>(numbers.back() % 4)});
  return {draws_.back().name, false};
}

BodyWriter::Var BodyWriter::random(const Node& node, const Type& type, const DimMap& map) {
  const std::string_view op = node.op->name;
  const Lane lane = lane_of(type.dtype);
  const std::string_view real = lane_type(lane);
  const auto number = [&](double value) { return literal(lane == Lane::f64 ? DType::f64 : DType::f32, value); };
  if (op == "dropout") {
    const double p = node.attrs.f("p");
    const Var x = emit(node.inputs[0], map), w = draw(node, 1, type.shape, map, 1);
    return statement(
        lane, fmt::format("uniform({}_0) >= {} ? {} * {} : 0", w.name, literal(DType::f32, p), x.name, number(1.0 / (1.0 - p))),
        false, op);
  }
  if (op == "random_uniform") {
    const double low = node.attrs.f("low"), range = node.attrs.f("high") - low;
    const Var w = draw(node, 0, type.shape, map, 1);
    return statement(lane, fmt::format("{} + {} * uniform({}_0)", number(low), number(range), w.name), false, op);
  }
  const Var w = draw(node, 0, type.shape, map, 2);
  return statement(lane,
                   fmt::format("static_cast<{}>({} + {} * normal({}_0, {}_1))", real, literal(DType::f64, node.attrs.f("mean")),
                               literal(DType::f64, node.attrs.f("stddev")), w.name, w.name),
                   false, op);
}

BodyWriter::Var BodyWriter::counted(const Node& node, const Type& type, const DimMap& map) {
  const int axis = normalize_axis(node.attrs.i("axis"), type.shape.rank(), "iota");
  counts_.push_back({fresh('j'), strides_of(type.shape, map)});
  const std::int64_t inner = type.shape.elements(axis + 1, type.shape.rank());
  std::string place = counts_.back().name;
  if (inner > 1) place = fmt::format("{} / {}u", place, inner);
  if (axis > 0) place = fmt::format("{} % {}u", place, type.shape[axis]);
  const std::string_view wraps = type.dtype == DType::i8 ? "i8" : type.dtype == DType::u8 ? "u8" : "";
  const std::string_view lane = lane_type(lane_of(type.dtype));
  std::string text = fmt::format("static_cast<{}>({})", wraps.empty() ? lane : wraps, place);
  if (type.dtype == DType::boolean) text = fmt::format("({}) != 0", place);
  return statement(lane_of(type.dtype), std::move(text), false, "iota");
}

// ---- places ----------------------------------------------------------------------------------------------
std::vector<const Strides*> BodyWriter::all_strides() const {
  std::vector<const Strides*> all;
  for (const Load& x : loads_) all.push_back(&x.strides);
  for (const Draw& x : draws_) all.push_back(&x.strides);
  for (const Count& x : counts_) all.push_back(&x.strides);
  return all;
}

Layout BodyWriter::layout(bool keep_last) const {
  Layout layout;
  const std::vector<const Strides*> all = all_strides();
  for (int d = 0; d < shape_.rank(); ++d) {
    const std::int64_t size = shape_[d];
    const bool kept = keep_last && d == shape_.rank() - 1;
    if (size == 1 && !kept) continue;
    const auto one_run = [&](const Strides* s) {
      return (*s)[static_cast<std::size_t>(layout.dims.back())] == (*s)[static_cast<std::size_t>(d)] * size;
    };
    if (!layout.dims.empty() && !kept && std::all_of(all.begin(), all.end(), one_run)) {
      layout.dims.back() = d;
      layout.sizes.back() *= size;
    } else {
      layout.dims.push_back(d);
      layout.sizes.push_back(size);
    }
  }
  return layout;
}

std::int64_t BodyWriter::stride(const Strides& strides, const Layout& layout, std::size_t dim) const {
  return strides[static_cast<std::size_t>(layout.dims[dim])];
}

bool BodyWriter::steps(const Strides& strides, const Layout& layout) const {
  return !layout.dims.empty() && stride(strides, layout, layout.dims.size() - 1) == 1;
}

std::string BodyWriter::place_of(const Strides& strides, const Layout& layout) const {
  std::int64_t expected = 1;
  bool full = !layout.dims.empty();
  for (std::size_t d = layout.dims.size(); d-- > 0; expected *= layout.sizes[d])
    full = full && stride(strides, layout, d) == expected;
  if (full) return "i";
  std::string out;
  for (std::size_t d = 0; d < layout.dims.size(); ++d) {
    const std::int64_t step = stride(strides, layout, d);
    if (step == 0) continue;
    const std::string place = d + 1 == layout.dims.size() ? "c" : fmt::format("c{}", d);
    out += (out.empty() ? "" : " + ") + (step == 1 ? place : fmt::format("{} * {}u", place, step));
  }
  return out.empty() ? "0" : out;
}

int BodyWriter::vector_width(const Layout& layout, const std::vector<DType>& results, bool ragged_rows) const {
  std::size_t widest = 1;
  for (const DType dtype : results) widest = std::max(widest, byte_size(dtype));
  for (const Load& x : loads_)
    if (steps(x.strides, layout)) widest = std::max(widest, byte_size(x.dtype));
  int width = std::min(static_cast<int>(16 / widest), 8);
  const auto fits = [&] {
    if (layout.dims.empty()) return width == 1;
    if ((layout.dims.size() > 1 || ragged_rows) && layout.sizes.back() % width != 0) return false;
    for (const Strides* s : all_strides())
      for (std::size_t d = 0; steps(*s, layout) && d + 1 < layout.dims.size(); ++d)
        if (stride(*s, layout, d) % width != 0) return false;
    return true;
  };
  while (width > 1 && !fits()) width /= 2;
  return width;
}

// Do the words of `width` elements start at a multiple of 4, after the offset?
bool BodyWriter::whole_blocks(const Draw& draw, const Layout& layout, int width) const {
  return draw.words * width % 4 == 0 && steps(draw.strides, layout);
}

// ---- writing -----------------------------------------------------------------------------------------------
void BodyWriter::write_uniform(std::string& out, std::string_view indent) const {
  for (const Load& x : loads_)
    if (is_uniform(x.strides))
      out += fmt::format("{}const {} {} = load<{}>({});\n", indent, lane_type(lane_of(x.dtype)), x.name, format_name(x.dtype),
                         x.pointer);
  for (const Statement& s : statements_)
    if (s.uniform) out += fmt::format("{}const {} {} = {};\n", indent, s.type, s.name, s.text);
}

void BodyWriter::write_places(std::string& out, std::string_view indent, const Layout& layout, std::size_t count,
                              std::string_view place) {
  std::string rest(place);
  const std::size_t last = layout.dims.size() - 1;
  for (std::size_t d = count; d-- > 0;) {
    const std::string variable = d == last ? "c" : fmt::format("c{}", d);
    if (d == 0) {
      out += fmt::format("{}const I {} = {};\n", indent, variable, rest);
    } else {
      out += fmt::format("{0}const I q{1} = {2} / {3}u, {4} = {2} - q{1} * {3}u;\n", indent, d, rest, layout.sizes[d], variable);
      rest = fmt::format("q{}", d);
    }
  }
}

void BodyWriter::write_loads(std::string& out, std::string_view indent, const Layout& layout, int width, Loads loads) const {
  for (const Load& x : loads_) {
    if (is_uniform(x.strides)) continue;
    const std::string_view type = lane_type(lane_of(x.dtype)), format = format_name(x.dtype);
    const std::string from = fmt::format("{} + {}", x.pointer, place_of(x.strides, layout));
    if (!steps(x.strides, layout)) {
      out += fmt::format("{}const {} {} = load<{}>({});\n", indent, type, x.name, format, from);
      continue;
    }
    out += fmt::format("{}{} {}v[{}];\n{}", indent, type, x.name, width, indent);
    if (loads == Loads::packed) {
      out += fmt::format("unpack<{}, {}>({}w[v], {}v);\n", format, width, x.name, x.name);
      continue;
    }
    if (loads == Loads::some)
      out += fmt::format("if (n - i < {}) load_some<{}, {}>({}, {}v, n - i); else ", width, format, width, from, x.name);
    out += fmt::format("load<{}, {}>({}, {}v);\n", format, width, from, x.name);
  }
  for (const Draw& w : draws_) {
    if (!whole_blocks(w, layout, width)) continue;
    const int blocks = (w.phase + w.words * width + 3) / 4;
    out += fmt::format("{}u32 {}v[{}];\n", indent, w.name, 4 * blocks);
    out += fmt::format("{}random_words<{}>({}, {}, {} / 4 + static_cast<u64>({}) * {} / 4, {}v);\n", indent, blocks, w.seed,
                       w.stream, w.offset, place_of(w.strides, layout), w.words, w.name);
  }
}

int BodyWriter::packed_words(const Layout& layout, int width) const {
  int words = 0;
  for (const Load& x : loads_)
    if (steps(x.strides, layout)) words += (width * static_cast<int>(byte_size(x.dtype)) + 3) / 4;
  return words;
}

void BodyWriter::write_packed(std::string& out, std::string_view indent, const Layout& layout, int width, int vectors) const {
  for (const Load& x : loads_)
    if (steps(x.strides, layout))
      out += fmt::format("{}u32 {}w[{}][{}];\n", indent, x.name, vectors, (width * static_cast<int>(byte_size(x.dtype)) + 3) / 4);
}

void BodyWriter::write_fetches(std::string& out, std::string_view indent, const Layout& layout, int width) const {
  for (const Load& x : loads_)
    if (steps(x.strides, layout))
      out += fmt::format("{}fetch<{}>({} + {}, {}w[v]);\n", indent, width * static_cast<int>(byte_size(x.dtype)), x.pointer,
                         place_of(x.strides, layout), x.name);
}

void BodyWriter::write_element(std::string& out, std::string_view indent, const Layout& layout, int width) const {
  for (const Load& x : loads_)
    if (!is_uniform(x.strides) && steps(x.strides, layout))
      out += fmt::format("{}const {} {} = {}v[k];\n", indent, lane_type(lane_of(x.dtype)), x.name, x.name);
  for (const Count& x : counts_)
    out += fmt::format("{}const I {} = {}{};\n", indent, x.name, place_of(x.strides, layout),
                       steps(x.strides, layout) ? " + k" : "");
  for (const Draw& w : draws_)
    for (int m = 0; m < w.words; ++m) {
      const std::string place = place_of(w.strides, layout) + (steps(w.strides, layout) ? " + k" : "");
      out += whole_blocks(w, layout, width)
                 ? fmt::format("{}const u32 {}_{} = {}v[{} * k + {}];\n", indent, w.name, m, w.name, w.words, w.phase + m)
                 : fmt::format("{}const u32 {}_{} = random_word({}, {}, {} + static_cast<u64>({}) * {} + {});\n", indent, w.name,
                               m, w.seed, w.stream, w.offset, place, w.words, m);
    }
  for (const Statement& s : statements_)
    if (!s.uniform) out += fmt::format("{}const {} {} = {};\n", indent, s.type, s.name, s.text);
}

}  // namespace rhetor::gpu
