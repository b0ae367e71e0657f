// Pointwise ops as CUDA C++ expressions: the table that ops/pointwise.cc's is on the device.
#include <cmath>

#include "base/error.h"
#include "cuda/codegen_text.h"

namespace rhetor::gpu {
namespace {

struct OpText {
  std::string_view op;
  std::string_view real;     // {0}, {1}, {2}: operands; {f}: suffix of the f32 function ("expf") or of a function of its own
  std::string_view integer;  // "": not defined
  bool wraps = false;        // the integer result may leave the range of i8 and u8
};
constexpr OpText kOps[] = {
    {"neg", "-{0}", "minus({0})", true},
    {"abs", "fabs{f}({0})", "({0} < 0 ? minus({0}) : {0})", true},
    {"sign", "sign({0})", "sign({0})"},
    {"exp", "exp{f}({0})", ""},
    {"log", "log{f}({0})", ""},
    {"sqrt", "sqrt{f}({0})", ""},
    {"rsqrt", "1 / sqrt{f}({0})", ""},
    {"reciprocal", "1 / {0}", ""},
    {"square", "{0} * {0}", "times({0}, {0})", true},
    {"sin", "sin{f}({0})", ""},
    {"cos", "cos{f}({0})", ""},
    {"tanh", "tanh{f}({0})", ""},
    {"erf", "erf{f}({0})", ""},
    {"sigmoid", "sigmoid{fast}({0})", ""},
    {"relu", "({0} < 0 ? 0 : {0})", "({0} < 0 ? 0 : {0})"},
    {"gelu", "gelu{fast}({0})", ""},
    {"gelu_tanh", "gelu_tanh{fast}({0})", ""},
    {"silu", "silu{fast}({0})", ""},
    {"floor", "floor{f}({0})", ""},
    {"round", "rint{f}({0})", ""},
    {"is_finite", "({0} - {0} == 0)", ""},
    {"logical_not", "", "({0} == 0)"},
    {"add", "{0} + {1}", "plus({0}, {1})", true},
    {"sub", "{0} - {1}", "plus({0}, minus({1}))", true},
    {"mul", "{0} * {1}", "times({0}, {1})", true},
    {"div", "{0} / {1}", "quotient({0}, {1})", true},
    {"pow", "pow{f}({0}, {1})", ""},
    {"gelu_tanh_grad", "gelu_tanh_grad{fast}({0}, {1})", ""},
    {"maximum", "({0} < {1} || {1} != {1} ? {1} : {0})", "({0} < {1} ? {1} : {0})"},
    {"minimum", "({1} < {0} || {1} != {1} ? {1} : {0})", "({1} < {0} ? {1} : {0})"},
    {"equal", "({0} == {1})", "({0} == {1})"},
    {"less", "({0} < {1})", "({0} < {1})"},
    {"less_equal", "({0} <= {1})", "({0} <= {1})"},
    {"logical_and", "", "({0} & {1})"},
    {"logical_or", "", "({0} | {1})"},
    {"where", "({0} ? {1} : {2})", "({0} ? {1} : {2})"},
};

bool narrow_float(DType dtype) { return lane_of(dtype) == Lane::f32 && dtype != DType::f32; }

}  // namespace

Lane lane_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return Lane::f64;
    case DType::i64:
      return Lane::i64;
    case DType::i32:
    case DType::i8:
    case DType::u8:
    case DType::boolean:
      return Lane::i32;
    default:
      return Lane::f32;
  }
}

std::string_view lane_type(Lane lane) {
  constexpr std::string_view names[] = {"float", "double", "int", "i64"};
  return names[static_cast<std::size_t>(lane)];
}

std::string_view format_name(DType dtype) {
  constexpr std::string_view names[] = {"F64", "F32", "F16", "BF16", "F8E4M3", "F8E5M2", "I64", "I32", "I8", "U8", "BOOL"};
  return names[static_cast<std::size_t>(dtype)];
}

std::string_view cell_type(DType dtype) {
  const std::size_t bytes = byte_size(dtype);
  return bytes == 8 ? "u64" : bytes == 4 ? "u32" : bytes == 2 ? "u16" : "u8";
}

std::string integer_literal(DType dtype, std::int64_t value) {
  if (dtype == DType::i64) return fmt::format("static_cast<i64>({:#x}ull)", static_cast<std::uint64_t>(value));
  return fmt::format("static_cast<int>({:#x}u)", static_cast<std::uint32_t>(value));
}

std::string literal(DType dtype, double value) {
  if (dtype == DType::f64) {
    if (!std::isfinite(value)) return fmt::format("__longlong_as_double({:#x}ll)", std::bit_cast<std::uint64_t>(value));
    return fmt::format("({:a})", value);
  }
  const auto f = static_cast<float>(value);
  if (!std::isfinite(f)) return fmt::format("__uint_as_float({:#x}u)", std::bit_cast<std::uint32_t>(f));
  return fmt::format("({:a}f)", f);
}

std::string pointwise_text(std::string_view op, DType dtype, bool fast, const std::vector<std::string>& operands) {
  const OpText* row = nullptr;
  for (const OpText& one : kOps)
    if (one.op == op) row = &one;
  if (!row) return "";
  const bool real = is_float(dtype), single = lane_of(dtype) == Lane::f32, brief = single && (fast || narrow_float(dtype));
  std::string_view form = real ? row->real : row->integer;
  // powf errs by up to 4 units in the last place.
  if (op == "pow" && single && !brief) form = "static_cast<float>(pow(static_cast<double>({0}), static_cast<double>({1})))";
  const auto operand = [&](std::size_t k) { return k < operands.size() ? operands[k] : std::string(); };
  const std::string text = fmt::format(fmt::runtime(form), operand(0), operand(1), operand(2), fmt::arg("f", single ? "f" : ""),
                                       fmt::arg("fast", brief ? "_fast" : ""));
  if (!row->wraps || real || (dtype != DType::i8 && dtype != DType::u8)) return text;
  return fmt::format("static_cast<int>(static_cast<{}>({}))", dtype == DType::i8 ? "i8" : "u8", text);
}

bool gives_bool(std::string_view op) {
  return op == "is_finite" || op == "equal" || op == "less" || op == "less_equal" || op.starts_with("logical_");
}

std::string cast_text(DType from, DType to, const std::string& x) {
  const Lane source = lane_of(from);
  const bool real = is_float(from);
  if (to == DType::boolean) return fmt::format("({} != 0)", x);
  if (to == DType::f64) return fmt::format("static_cast<double>({})", x);
  if (to == DType::f32) return source == Lane::f32 ? x : fmt::format("static_cast<float>({})", x);
  if (is_float(to)) {
    const bool exact = source == Lane::i32 && from != DType::i32;  // 8 bits and bool
    const std::string single =
        source == Lane::f32 ? x
                            : fmt::format(fmt::runtime(exact ? "static_cast<float>({})" : "to_odd(static_cast<double>({}))"), x);
    return fmt::format("round_{}({})", name(to), single);
  }
  if (real) return fmt::format("to_{}({})", name(to), x);
  if (to == DType::i64) return fmt::format("static_cast<i64>({})", x);
  if (to == DType::i32) return source == Lane::i32 ? x : fmt::format("static_cast<int>({})", x);
  return fmt::format("static_cast<int>(static_cast<{}>({}))", name(to), x);
}

}  // namespace rhetor::gpu
