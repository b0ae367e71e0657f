#include "cpu/program.h"

#include <algorithm>
#include <map>
#include <string_view>

#include "cpu/kernel.h"
#include "cpu/program_internal.h"
#include "graph/op.h"

namespace rhetor {
namespace {

Lane lane_of(DType dtype) {
  switch (dtype) {
    case DType::f64: return Lane::f64;
    case DType::i64: return Lane::i64;
    case DType::i32: case DType::i8: case DType::u8: case DType::boolean: return Lane::i32;
    default: return Lane::f32;
  }
}

struct Entry {
  std::string_view op;
  Code code;
  bool integers;  // defined for integers too
};
constexpr Entry kTable[] = {
    {"neg", Code::neg, true},           {"abs", Code::abs, true},         {"sign", Code::sign, true},
    {"exp", Code::exp, false},          {"log", Code::log, false},        {"sqrt", Code::sqrt, false},
    {"rsqrt", Code::rsqrt, false},      {"reciprocal", Code::reciprocal, false},
    {"square", Code::square, true},     {"sin", Code::sin, false},        {"cos", Code::cos, false},
    {"tanh", Code::tanh, false},        {"erf", Code::erf, false},        {"sigmoid", Code::sigmoid, false},
    {"relu", Code::relu, true},         {"gelu", Code::gelu, false},      {"gelu_tanh", Code::gelu_tanh, false},
    {"silu", Code::silu, false},        {"floor", Code::floor, false},    {"round", Code::round, false},
    {"is_finite", Code::is_finite, false}, {"logical_not", Code::logical_not, true},
    {"add", Code::add, true},           {"sub", Code::sub, true},         {"mul", Code::mul, true},
    {"div", Code::div, true},          {"pow", Code::pow, false},        {"gelu_tanh_grad", Code::gelu_tanh_grad, false}, {"maximum", Code::maximum, true},
    {"minimum", Code::minimum, true},   {"equal", Code::equal, true},     {"less", Code::less, true},
    {"less_equal", Code::less_equal, true}, {"logical_and", Code::logical_and, true},
    {"logical_or", Code::logical_or, true}, {"where", Code::where, true},
};

const Entry* find_entry(std::string_view op) {
  for (const Entry& entry : kTable)
    if (entry.op == op) return &entry;
  return nullptr;
}

// Which dim of a value each result dim walks along; -1: the value repeats there.
using DimMap = std::vector<int>;

// Thrown inside the compiler only; compile_program turns it into *why_not.
struct Refused {
  std::string reason;
};
[[noreturn]] void refuse(std::string reason) { throw Refused{std::move(reason)}; }

class Compiler {
 public:
  Compiler(const Graph& body, const std::vector<ValueId>& inputs, const std::vector<ValueId>& outputs, const std::vector<DType>& storage)
      : body_(body), inputs_(inputs), outputs_(outputs), storage_(storage), program_(std::make_shared<Program>()) {}

  ProgramPtr run() {
    if (outputs_.empty()) refuse("it has no result");
    shape_ = body_.type(outputs_[0]).shape;
    for (const ValueId out : outputs_)
      if (body_.type(out).shape != shape_)
        refuse(fmt::format("its results have shapes {} and {}", shape_.str(), body_.type(out).shape.str()));
    program_->cols = shape_.last();
    program_->rows = shape_.rank() ? shape_.elements(0, shape_.rank() - 1) : 1;
    program_->single_output = outputs_.size() == 1;
    DimMap identity(static_cast<std::size_t>(shape_.rank()));
    for (std::size_t d = 0; d < identity.size(); ++d) identity[d] = static_cast<int>(d);
    std::vector<std::int16_t> results;
    for (const ValueId out : outputs_) results.push_back(emit(stored(out), identity));
    for (std::size_t k = 0; k < outputs_.size(); ++k) {
      const DType dtype = body_.type(outputs_[k]).dtype;
      program_->body.push_back({.code = Code::store, .lane = lane_of(dtype), .dtype = dtype, .a = results[k],
                                .slot = static_cast<std::int16_t>(k)});
    }
    program_->chain = find_chain(*program_);
    allocate_registers();
    return program_;
  }

 private:
  // A result that is a value rounded to 16 bits: storing the value rounds it.
  ValueId stored(ValueId out) const {
    const Node& node = body_.node(out);
    const DType dtype = body_.type(out).dtype;
    const bool rounds = node.op->name == "cast" && (dtype == DType::bf16 || dtype == DType::f16) &&
                        lane_of(body_.type(node.inputs[0]).dtype) == Lane::f32 && std::find(inputs_.begin(), inputs_.end(), out) == inputs_.end();
    return rounds ? node.inputs[0] : out;
  }

  Access access_of(const Shape& shape, const DimMap& map) const {
    const auto strides = shape.strides();
    Access access;
    for (int d = 0; d < shape_.rank(); ++d) {
      const std::int64_t size = shape_[d];
      if (size == 1) continue;
      const int at = map[static_cast<std::size_t>(d)];
      const std::int64_t stride = at >= 0 && shape[at] != 1 ? strides[static_cast<std::size_t>(at)] : 0;
      if (access.rank) {  // merge with the dim outside it when they are one run
        auto& outer_size = access.sizes[static_cast<std::size_t>(access.rank - 1)];
        auto& outer_stride = access.strides[static_cast<std::size_t>(access.rank - 1)];
        if (outer_stride == stride * size) {
          outer_size *= size;
          outer_stride = stride;
          continue;
        }
      }
      access.sizes[static_cast<std::size_t>(access.rank)] = size;
      access.strides[static_cast<std::size_t>(access.rank)] = stride;
      ++access.rank;
    }
    if (access.rank == 1 && access.strides[0] == 0) access.rank = 0;
    return access;
  }

  std::int16_t fresh() { return next_++; }

  std::int16_t load(DType dtype, const Shape& shape, const DimMap& map, Operand operand) {
    operand.access = access_of(shape, map);
    const auto slot = static_cast<std::int16_t>(program_->operands.size());
    Instr instr{.code = Code::load, .lane = lane_of(dtype), .dtype = dtype, .dst = fresh(), .slot = slot};
    instr.full = operand.access.rank == 1 && operand.access.strides[0] == 1 && shape.elements() == shape_.elements();
    (operand.access.rank == 0 ? program_->prologue : program_->body).push_back(instr);
    program_->operands.push_back(operand);
    return instr.dst;
  }

  std::int16_t emit_input(std::size_t k, const DimMap& map) {
    const Type& type = body_.type(inputs_[k]);
    const DType dtype = k < storage_.size() ? storage_[k] : type.dtype;
    if (lane_of(dtype) != lane_of(type.dtype)) refuse("an operand is stored in another kind of number");
    return load(dtype, type.shape, map, {.input = static_cast<int>(k)});
  }

  std::int16_t emit(ValueId v, const DimMap& map) {
    const auto key = std::make_pair(v, map);
    if (const auto at = memo_.find(key); at != memo_.end()) return at->second;
    if (++depth_ > 2000) refuse("its chain of ops is too deep");
    const std::int16_t out = emit_new(v, map);
    --depth_;
    memo_.emplace(key, out);
    if (next_ > 400) refuse("it has more than 400 values");
    return out;
  }

  std::int16_t emit_new(ValueId v, const DimMap& map) {
    for (std::size_t k = 0; k < inputs_.size(); ++k)
      if (inputs_[k] == v) return emit_input(k, map);
    const Node& node = body_.node(v);
    const std::string_view op = node.op->name;
    const Type& type = body_.type(v);
    if (body_.is_constant(v.node)) {
      program_->constants.push_back(node.attrs.tensor("value"));
      return load(type.dtype, type.shape, map, {.constant = static_cast<int>(program_->constants.size()) - 1});
    }
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
    if (op == "cast") return convert(emit(node.inputs[0], map), body_.type(node.inputs[0]).dtype, type.dtype);
    if (op == "dropout") return emit_dropout(node, type, map);
    const Entry* entry = find_entry(op);
    if (!entry) refuse(fmt::format("'{}' is not a pointwise op it knows", op));
    return emit_pointwise(*entry, node, map);
  }

  std::int16_t convert(std::int16_t from, DType source, DType target) {
    if (source == target) return from;
    const bool widens = lane_of(source) == Lane::f32 && target == DType::f32;
    const bool widens_int = lane_of(source) == Lane::i32 && target == DType::i32;
    if (widens || widens_int) return from;  // the register already holds it
    program_->body.push_back({.code = Code::convert, .lane = lane_of(source), .dtype = target, .dst = fresh(), .a = from});
    return program_->body.back().dst;
  }

  std::int16_t emit_dropout(const Node& node, const Type& type, const DimMap& map) {
    const Access access = access_of(type.shape, map);
    const bool whole = type.shape.elements() == shape_.elements() && (access.rank == 0 || (access.rank == 1 && access.strides[0] == 1));
    if (!whole) refuse("dropout is applied before a broadcast");
    if (lane_of(type.dtype) != Lane::f32) refuse("dropout is vectorised for f32, bf16 and f16 only");
    const std::int16_t x = emit(node.inputs[0], map);
    const std::int16_t seed = emit(node.inputs[1], DimMap(map.size(), -1));
    program_->random = true;
    program_->body.push_back({.code = Code::dropout, .lane = Lane::f32, .dtype = type.dtype, .dst = fresh(), .a = x, .b = seed,
                              .p = node.attrs.f("p"), .stream = node.attrs.i("stream"), .offset = node.attrs.i("offset")});
    return program_->body.back().dst;
  }

  std::int16_t emit_pointwise(const Entry& entry, const Node& node, const DimMap& map) {
    std::int16_t regs[3] = {-1, -1, -1};
    if (node.inputs.size() > 3) refuse(fmt::format("'{}' has more than three operands", entry.op));
    for (std::size_t k = 0; k < node.inputs.size(); ++k) regs[k] = emit(node.inputs[k], map);
    const DType dtype = body_.type(node.inputs[entry.code == Code::where ? 1 : 0]).dtype;
    const bool narrow = dtype == DType::i8 || dtype == DType::u8;
    const bool moves_only = entry.code == Code::where || (entry.code >= Code::maximum && entry.code <= Code::less_equal);
    if (!is_float(dtype) && !entry.integers) refuse(fmt::format("'{}' on {} is left to the reference", entry.op, name(dtype)));
    if (narrow && !moves_only) refuse(fmt::format("'{}' on {} may overflow its register", entry.op, name(dtype)));
    program_->body.push_back({.code = entry.code, .lane = lane_of(dtype), .dtype = dtype, .dst = fresh(), .a = regs[0], .b = regs[1],
                              .c = regs[2]});
    return program_->body.back().dst;
  }

  // Linear scan: a register is free again after its last reader. Prologue registers stay.
  void allocate_registers() {
    auto& body = program_->body;
    std::vector<int> last(static_cast<std::size_t>(next_), -1);
    const auto each_use = [](Instr& i, auto&& f) {
      for (std::int16_t* r : {&i.a, &i.b, &i.c})
        if (*r >= 0) f(*r);
    };
    for (std::size_t i = 0; i < body.size(); ++i)
      each_use(body[i], [&](std::int16_t& r) { last[static_cast<std::size_t>(r)] = static_cast<int>(i); });
    std::vector<std::int16_t> home(static_cast<std::size_t>(next_), -1), free;
    std::int16_t used = 0;
    std::vector<bool> pinned(static_cast<std::size_t>(next_), false);
    for (Instr& instr : program_->prologue) {
      pinned[static_cast<std::size_t>(instr.dst)] = true;
      home[static_cast<std::size_t>(instr.dst)] = used;
      instr.dst = used++;
    }
    for (std::size_t i = 0; i < body.size(); ++i) {
      std::vector<std::int16_t> dying;
      each_use(body[i], [&](std::int16_t& r) {
        const auto v = static_cast<std::size_t>(r);
        if (!pinned[v] && last[v] == static_cast<int>(i)) dying.push_back(home[v]);
        r = home[v];
      });
      std::sort(dying.begin(), dying.end());
      dying.erase(std::unique(dying.begin(), dying.end()), dying.end());
      if (body[i].dst >= 0) {
        // The result takes a register other than its operands': an operand may be a window on memory that must not be written.
        std::int16_t to = used;
        if (!free.empty()) { to = free.back(); free.pop_back(); } else ++used;
        home[static_cast<std::size_t>(body[i].dst)] = to;
        if (last[static_cast<std::size_t>(body[i].dst)] < 0) dying.push_back(to);
        body[i].dst = to;
      }
      free.insert(free.end(), dying.begin(), dying.end());
    }
    if (used > kMaxRegisters) refuse(fmt::format("it needs {} tile registers, more than {}", used, kMaxRegisters));
    program_->registers = used;
  }

  static constexpr int kMaxRegisters = 64;
  const Graph& body_;
  const std::vector<ValueId>& inputs_;
  const std::vector<ValueId>& outputs_;
  const std::vector<DType>& storage_;
  std::shared_ptr<Program> program_;
  Shape shape_;
  std::map<std::pair<ValueId, DimMap>, std::int16_t> memo_;
  std::int16_t next_ = 0;
  int depth_ = 0;
};

}  // namespace

ProgramPtr compile_program(const Graph& body, const std::vector<ValueId>& inputs, const std::vector<ValueId>& outputs,
                           std::string* why_not, const std::vector<DType>& storage) {
  cpu_isa();  // settles the instruction set before the first dispatch
  try {
    return Compiler(body, inputs, outputs, storage).run();
  } catch (const Refused& refused) {
    if (why_not) *why_not = refused.reason;
    return nullptr;
  }
}

std::int64_t program_rows(const Program& program) { return program.rows; }
std::int64_t program_cols(const Program& program) { return program.cols; }

std::uint64_t program_scratch_bytes(const Program& program) {
  return static_cast<std::uint64_t>(program.registers * Program::kRegisterBytes + (program.random ? Program::kRandomWords * 4 : 0));
}

void run_program(const Program& program, const void* const* in, void* const* out, std::int64_t row_begin, std::int64_t row_end,
                 void* tile_scratch) {
  run_program_elements(program, in, out, row_begin * program.cols, row_end * program.cols, tile_scratch);
}

bool program_takes_blocks(const Program& program) {
  const auto reads_sums = [&](const Instr& i) { return i.code == Code::load && program.operands[static_cast<std::size_t>(i.slot)].input == 0; };
  return std::none_of(program.prologue.begin(), program.prologue.end(), reads_sums) &&
         std::all_of(program.body.begin(), program.body.end(), [&](const Instr& i) { return !reads_sums(i) || (i.full && i.dtype == DType::f32); });
}

std::string program_text(const Program& program) {
  std::string text;
  const auto say = [&](const Instr& i) {
    if (!text.empty()) text += ", ";
    switch (i.code) {
      case Code::load: text += fmt::format("{} {}", program.operands[static_cast<std::size_t>(i.slot)].access.rank ? "load" : "scalar", name(i.dtype)); break;
      case Code::store: text += fmt::format("store {}", name(i.dtype)); break;
      case Code::convert: text += fmt::format("cast {}", name(i.dtype)); break;
      case Code::dropout: text += "dropout"; break;
      default:
        for (const Entry& entry : kTable)
          if (entry.code == i.code) text += entry.op;
    }
  };
  for (const Instr& i : program.prologue) say(i);
  for (const Instr& i : program.body) say(i);
  return text;
}

}  // namespace rhetor
