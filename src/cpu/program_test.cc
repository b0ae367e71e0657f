#include "cpu/program.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/rng.h"
#include "graph/interpreter.h"
#include "ops/ops.h"
#include "tensor/compare.h"

namespace rhetor {
namespace {

Tensor random_tensor(Type type, Rng& rng, double low = -2, double high = 2) {
  Tensor t = Tensor::uninitialized(type);
  for (std::int64_t i = 0; i < t.elements(); ++i) {
    const double u = low + (high - low) * static_cast<double>(rng.uniform());
    t.set(i, is_float(type.dtype) ? u : type.dtype == DType::boolean ? u > 0 : std::floor(u * 4));
  }
  return t;
}

struct Case {
  Graph graph;
  std::map<std::string, Tensor> inputs;
  std::vector<ValueId> in, out;

  Value operand(Rng& rng, Type type, double low = -2, double high = 2) {
    const std::string name = fmt::format("{}", in.size());
    const Value v = graph.input(name, type);
    inputs[name] = random_tensor(type, rng, low, high);
    in.push_back(v.id());
    return v;
  }
  void result(Value v) {
    graph.output(fmt::format("{}", out.size()), v);
    out.push_back(v.id());
  }

  // Runs the program in the given pieces of the flattened result and compares every result with the float64 interpreter.
  void check(std::int64_t piece, double factor = 3.0) {
    std::string why;
    const ProgramPtr program = compile_program(graph, in, out, &why);
    ASSERT_TRUE(program) << why;
    std::vector<const void*> from;
    for (std::size_t k = 0; k < in.size(); ++k) from.push_back(inputs.at(fmt::format("{}", k)).raw());
    std::vector<Tensor> got;
    std::vector<void*> to;
    for (const ValueId v : out) {
      got.push_back(Tensor(graph.type(v)));
      to.push_back(got.back().raw());
    }
    Tensor scratch(DType::u8, Shape{static_cast<std::int64_t>(program_scratch_bytes(*program)) + 64});
    const std::int64_t elements = program_rows(*program) * program_cols(*program);
    for (std::int64_t at = 0; at < elements; at += piece)
      run_program_elements(*program, from.data(), to.data(), at, std::min(at + piece, elements), scratch.raw());
    const EvalResult oracle = evaluate(graph, inputs), naive = evaluate(graph, inputs, RefPrecision::declared);
    for (std::size_t k = 0; k < out.size(); ++k) {
      const std::string name = fmt::format("{}", k);
      const Comparison c = compare(got[k], oracle.outputs.at(name));
      const double tolerance = is_float(got[k].dtype()) ? derived_tolerance(naive.outputs.at(name), oracle.outputs.at(name), got[k].dtype(), factor) : 0;
      EXPECT_TRUE(c.nonfinite_mismatches == 0 && c.max_abs <= tolerance) << program_text(*program) << ": " << c.str() << ", tolerance " << tolerance;
    }
  }
};

TEST(Program, EveryKindOfBroadcastInEveryFloat) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::f64}) {
    for (const std::int64_t piece : {std::int64_t{1} << 40, std::int64_t{37}, std::int64_t{512}}) {
      Rng rng(1);
      Case c;
      const Shape shape{2, 5, 67};
      const Value full = c.operand(rng, {dtype, shape}), column = c.operand(rng, {dtype, {67}}), row = c.operand(rng, {dtype, {2, 5, 1}});
      const Value middle = c.operand(rng, {dtype, {5, 1}}), one = c.operand(rng, {dtype, {}}), outer = c.operand(rng, {dtype, {2, 1, 67}});
      c.result(add(mul(add(mul(add(full, column), row), middle), one), outer));
      c.check(piece);
    }
  }
}

TEST(Program, OneOperandReadInTwoWays) {
  Rng rng(2);
  Case c;
  const Value v = c.operand(rng, {DType::f32, {9}});
  c.result(sub(broadcast_to(reshape(v, {9, 1}), {9, 9}), broadcast_to(v, {9, 9})));
  std::string why;
  EXPECT_FALSE(compile_program(c.graph, c.in, c.out, &why));  // reshape is no pointwise op
  EXPECT_NE(why.find("reshape"), std::string::npos);

  Case d;
  const Value x = d.operand(rng, {DType::f32, {3, 1}}), y = d.operand(rng, {DType::f32, {1, 1}});
  const Value left = broadcast_to(broadcast_to(y, {3, 1}), {3, 20});
  d.result(add(mul(left, broadcast_to(x, {3, 20})), broadcast_to(y, {3, 20})));
  d.check(60);
}

TEST(Program, ManyResultsAndSharedParts) {
  Rng rng(3);
  Case c;
  const Value x = c.operand(rng, {DType::f32, {4, 300}}), y = c.operand(rng, {DType::f32, {4, 300}});
  const Value sum = add(x, y);
  c.result(gelu(sum));
  c.result(sum);
  c.result(less(x, y));
  c.result(cast(sum, DType::bf16));
  c.check(1 << 20);
  c.check(333);
}

TEST(Program, MasksIntegersAndCasts) {
  Rng rng(4);
  Case c;
  const Value i = c.operand(rng, {DType::i32, {6, 45}}), limit = c.operand(rng, {DType::i32, {6, 1}}), x = c.operand(rng, {DType::f32, {6, 45}});
  const Value flag = c.operand(rng, {DType::boolean, {45}}), wide = c.operand(rng, {DType::i64, {6, 45}});
  const Value seen = logical_and(less(i, limit), logical_not(broadcast_to(flag, {6, 45})));
  const Value even = equal(cast(wide, DType::i32), i);
  c.result(where(logical_or(seen, even), mul(x, 2.0), full_like(x, -1.5)));
  c.result(cast(mul(x, 100.0), DType::i8));
  c.result(cast(seen, DType::f32));
  c.check(1 << 20);
}

TEST(Program, LongGradientChains) {
  // The gradient of gelu as the autodiff pass writes it: constants, a shared square, a dozen instructions.
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Rng rng(5);
    Case c;
    const Value x = c.operand(rng, {dtype, {3, 700}}), dy = c.operand(rng, {dtype, {3, 700}});
    const Value cdf = mul(add(erf(mul(x, 0.70710678)), 1.0), 0.5), pdf = mul(exp(mul(square(x), -0.5)), 0.39894228);
    c.result(mul(dy, add(cdf, mul(x, pdf))));
    c.check(1 << 20);
  }
}

TEST(Program, DropoutDrawsTheReferenceBitsWhereverTheSplitFalls) {
  for (const std::int64_t piece : {std::int64_t{1} << 30, std::int64_t{1}, std::int64_t{13}, std::int64_t{515}}) {
    Rng rng(6);
    Case c;
    const Value x = c.operand(rng, {DType::f32, {5, 401}}, 1, 2), seed = c.operand(rng, {DType::i64, {}});
    c.inputs["1"] = Tensor::scalar<std::int64_t>(987654321);
    c.result(add(dropout(x, seed, 0.3, 17), x));
    c.check(piece);
  }
}

TEST(Program, NonFiniteValuesPassThrough) {
  Case c;
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  const Value x = c.graph.input("0", {DType::f32, {5}}), y = c.graph.input("1", {DType::f32, {5}});
  c.in = {x.id(), y.id()};
  c.inputs["0"] = Tensor::of<float>({5}, {nan, inf, -inf, 0.0f, 1.0f});
  c.inputs["1"] = Tensor::of<float>({5}, {1.0f, nan, nan, -inf, inf});
  for (const Value v : {maximum(x, y), minimum(x, y), relu(x), exp(x), sigmoid(x), tanh(x), erf(x), log(abs(x)), sign(x)}) c.result(v);
  c.result(is_finite(x));
  c.check(5);
}

TEST(Program, ASliceOfAFullOperandStandsForIt) {
  Rng rng(7);
  Case c;
  const Value x = c.operand(rng, {DType::bf16, {10, 33}}), bias = c.operand(rng, {DType::bf16, {33}});
  c.result(add(x, bias));
  std::string why;
  // Operand 0 is an f32 accumulator of rows 4 to 7 only.
  const ProgramPtr program = compile_program(c.graph, c.in, c.out, &why, {DType::f32, DType::bf16});
  ASSERT_TRUE(program) << why;
  const Tensor rows = c.inputs["0"].rows(4, 7).cast(DType::f32);
  Tensor out(DType::bf16, {10, 33});
  const void* in[] = {static_cast<const float*>(rows.raw()) - 4 * 33, c.inputs["1"].raw()};
  void* to[] = {out.raw()};
  Tensor scratch(DType::u8, Shape{static_cast<std::int64_t>(program_scratch_bytes(*program)) + 64});
  run_program(*program, in, to, 4, 7, scratch.raw());
  const Tensor oracle = evaluate(c.graph, c.inputs).outputs.at("0");
  for (std::int64_t i = 0; i < out.elements(); ++i) {
    const bool inside = i >= 4 * 33 && i < 7 * 33;
    EXPECT_NEAR(out.at(i), inside ? oracle.at(i) : 0.0, inside ? 0.02 : 0.0);
  }
}

// What a product hands over square by square gives the bits of the whole, ragged edges, dropout and one-pass chains included.
TEST(Program, BlocksGiveTheSameBits) {
  constexpr std::int64_t rows = 50, cols = 75, side = ProgramBlock::kCols;
  for (int form = 0; form < 3; ++form) {
    Rng rng(static_cast<std::uint64_t>(11 + form));
    Case c;
    const Value x = c.operand(rng, {DType::f32, {rows, cols}}), bias = c.operand(rng, {DType::f32, {cols}});
    const Value residual = c.operand(rng, {DType::bf16, {rows, cols}});
    const Value wide = cast(residual, DType::f32), sum = add(x, bias);
    if (form == 0) c.result(cast(gelu(sum), DType::bf16));
    else if (form == 1) c.result(add(relu(sum), wide));
    else {
      const Value seed = c.graph.input("3", {DType::i64, {}});
      c.inputs["3"] = Tensor::of<std::int64_t>({}, {42});
      c.in.push_back(seed.id());
      c.result(dropout(mul(sum, wide), seed, 0.3, 5));
      c.result(sum);
    }
    std::string why;
    const ProgramPtr program = compile_program(c.graph, c.in, c.out, &why);
    ASSERT_TRUE(program) << why;
    ASSERT_TRUE(program_takes_blocks(*program));
    std::vector<const void*> in;
    for (std::size_t k = 0; k < c.in.size(); ++k) in.push_back(c.inputs.at(fmt::format("{}", k)).raw());
    std::vector<Tensor> whole, pieces;
    std::vector<void*> to_whole, to_pieces;
    for (const ValueId v : c.out) {
      for (auto* list : {&whole, &pieces}) list->push_back(Tensor(c.graph.type(v)));
      to_whole.push_back(whole.back().raw());
      to_pieces.push_back(pieces.back().raw());
    }
    Tensor scratch(DType::u8, Shape{static_cast<std::int64_t>(program_scratch_bytes(*program)) + 64});
    run_program(*program, in.data(), to_whole.data(), 0, rows, scratch.raw());
    const auto* sums = static_cast<const float*>(in[0]);
    alignas(64) float square[side * side];
    in[0] = nullptr;
    for (std::int64_t row = 0; row < rows; row += side)
      for (std::int64_t col = 0; col < cols; col += side) {
        const std::int64_t r = std::min(side, rows - row), n = std::min(side, cols - col);
        for (std::int64_t i = 0; i < r; ++i) std::copy_n(sums + (row + i) * cols + col, n, square + i * side);
        run_program_block(*program, in.data(), to_pieces.data(), {row, r, col, n, square}, scratch.raw());
      }
    for (std::size_t k = 0; k < whole.size(); ++k) EXPECT_EQ(std::memcmp(whole[k].raw(), pieces[k].raw(), whole[k].bytes()), 0) << form << " " << k;
  }
}

}  // namespace
}  // namespace rhetor
