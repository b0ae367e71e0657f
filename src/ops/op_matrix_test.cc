// Every op x sample x dtype at reference level. Nothing here names an op: a new OpDef is tested by being registered.
#include "ops/op_matrix.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"
#include "graph/interpreter.h"
#include "graph/text.h"
#include "graph/verify.h"
#include "ops/registry.h"
#include "ops/shard.h"
#include "tensor/compare.h"

namespace rhetor {
namespace {

using Inputs = std::map<std::string, Tensor>;

class OpMatrix : public testing::TestWithParam<const OpDef*> {
 protected:
  const OpDef& op() const { return *GetParam(); }
};

// One rank, or all ranks of a collective's group.
std::vector<EvalResult> run(const OpCase& one, const Graph& graph, const std::vector<Inputs>& inputs, RefPrecision precision) {
  if (one.ranks() == 1) return {evaluate(graph, inputs[0], precision)};
  return evaluate_ranks({&graph}, {{one.sample.attrs.s("axis"), one.ranks()}}, inputs, precision);
}
std::vector<Inputs> inputs_of(const OpCase& one) {
  std::vector<Inputs> out;
  for (std::int64_t r = 0; r < one.ranks(); ++r) out.push_back(named_operands(make_operands(one, r)));
  return out;
}
const Node& op_node(const Graph& graph) { return graph.node(graph.outputs()[0].value); }

double coarsest_epsilon(const Graph& graph) {
  double out = 0;
  for (std::int32_t i = 0; i < graph.size(); ++i)
    for (const Type& type : graph.node(i).outputs) out = std::max(out, epsilon(type.dtype));
  return out;
}

TEST_P(OpMatrix, IsDescribed) {
  EXPECT_GE(op().doc.size(), 3u);
  EXPECT_NE(op().infer, nullptr);
  EXPECT_NE(op().grad, nullptr) << "write kNotDifferentiable if it has none";
  ASSERT_NE(op().cost, nullptr);
  ASSERT_NE(op().samples, nullptr);
  if (&op() == &input_op()) return;
  EXPECT_TRUE(op().reference);
  EXPECT_FALSE(op_cases(op()).empty()) << "no sample small enough for the correctness matrix";
}

TEST_P(OpMatrix, InferAgreesWithReferenceAndPrecisionIsSane) {
  for (const OpCase& one : op_cases(op())) {
    SCOPED_TRACE(one.str());
    const Graph graph = case_graph(one);
    ASSERT_NO_THROW(verify(graph, one.str()));
    const auto inputs = inputs_of(one);
    const auto oracle = run(one, graph, inputs, RefPrecision::f64), naive = run(one, graph, inputs, RefPrecision::declared);
    const Node& node = op_node(graph);
    for (std::size_t r = 0; r < oracle.size(); ++r) {
      for (std::size_t k = 0; k < node.outputs.size(); ++k) {
        const Tensor &exact = oracle[r].outputs.at(std::to_string(k)), &rough = naive[r].outputs.at(std::to_string(k));
        EXPECT_EQ(rough.type(), node.outputs[k]) << rough.type().str() << " against " << node.outputs[k].str();
        EXPECT_EQ(exact.shape(), node.outputs[k].shape);
        const Comparison difference = compare(rough, exact);
        EXPECT_EQ(difference.nonfinite_mismatches, 0) << "result " << k << ": " << difference.str();
        // Naive evaluation makes a few roundings an element; int8 codes may round to the neighbour.
        if (is_float(node.outputs[k].dtype))
          EXPECT_LE(difference.max_rel_to_scale, 64 * coarsest_epsilon(graph)) << "result " << k << ": " << difference.str();
        else
          EXPECT_LE(difference.max_abs, node.outputs[k].dtype == DType::i8 ? 1 : 0) << "result " << k << ": " << difference.str();
      }
    }
  }
}

TEST_P(OpMatrix, TextRoundTrip) {
  for (const bool benchmark : {false, true}) {
    for (const OpCase& one : op_cases(op(), benchmark)) {
      SCOPED_TRACE(one.str());
      const Graph graph = case_graph(one);
      const std::string text = to_text(graph);
      const Graph back = parse_graph(text, all_ops());
      verify(back, one.str());
      EXPECT_EQ(to_text(back), text);
      EXPECT_TRUE(op_node(back).attrs == op_node(graph).attrs);
    }
  }
}

TEST_P(OpMatrix, CostAndInPlace) {
  for (const bool benchmark : {false, true}) {
    for (const OpCase& one : op_cases(op(), benchmark)) {
      SCOPED_TRACE(one.str());
      const Graph graph = case_graph(one);
      const Node& node = op_node(graph);
      const Cost cost = op().cost(one.types(), node.outputs, node.attrs);
      EXPECT_TRUE(std::isfinite(cost.flops) && cost.flops >= 0);
      EXPECT_TRUE(std::isfinite(cost.bytes) && cost.bytes >= 0);
      const int reused = op().traits.inplace;
      if (reused >= 0) {
        ASSERT_LT(static_cast<std::size_t>(reused), node.inputs.size());
        EXPECT_EQ(graph.type(node.inputs[static_cast<std::size_t>(reused)]).bytes(), node.outputs[0].bytes())
            << "traits.inplace names an operand of another size";
      }
    }
  }
}

// <gradient, t> against the central difference of sum_k <w_k, result_k> along t, all in float64.
TEST_P(OpMatrix, GradientAlongARandomDirection) {
  if (op().grad == kNotDifferentiable) GTEST_SKIP() << op().name << " is not differentiable";
  for (const OpCase& one : op_cases(op())) {
    if (!one.sample.differentiable || one.dtype != one.sample.dtypes[0]) continue;
    SCOPED_TRACE(one.str());
    Graph graph = case_graph(one);
    const Node node = op_node(graph);
    const std::int32_t at = graph.outputs()[0].value.node;
    GradCall call{graph, node.attrs, {}, {}, {}};
    for (const ValueId v : node.inputs) call.in.push_back(v.valid() ? graph.value(v) : Value());
    std::vector<Inputs> inputs = inputs_of(one), directions(inputs.size());
    const auto random = [&](const Shape& shape, std::uint64_t stream) {
      Rng rng(20250118, stream);
      std::vector<double> values(static_cast<std::size_t>(shape.elements()));
      for (double& v : values) v = 2 * static_cast<double>(rng.uniform()) - 1;
      return Tensor::from_doubles({DType::f64, shape}, values);
    };
    for (std::size_t k = 0; k < node.outputs.size(); ++k) {
      call.out.push_back(graph.value({at, static_cast<std::int32_t>(k)}));
      const bool real = is_float(node.outputs[k].dtype);
      const std::string weight = "w" + std::to_string(k);
      call.grad_out.push_back(real ? graph.input(weight, node.outputs[k]) : Value());
      for (std::size_t r = 0; r < inputs.size() && real; ++r) inputs[r][weight] = random(node.outputs[k].shape, 1000 * r + k);
    }
    const std::vector<Value> grads = op().grad(call);
    ASSERT_EQ(grads.size(), node.inputs.size()) << "grad gives one value per operand";
    for (std::size_t k = 0; k < grads.size(); ++k) {
      if (!grads[k]) continue;
      EXPECT_EQ(grads[k].type(), call.in[k].type()) << "gradient of operand " << k << ": " << grads[k].type().str() << " for "
                                                    << call.in[k].type().str();
      graph.output("d" + std::to_string(k), grads[k]);
    }
    verify(graph, one.str());

    for (std::size_t r = 0; r < inputs.size(); ++r)
      for (std::size_t k = 0; k < node.inputs.size(); ++k)
        if (node.inputs[k].valid() && is_float(graph.type(node.inputs[k]).dtype))
          directions[r][std::to_string(k)] = random(graph.type(node.inputs[k]).shape, 5000 + 1000 * r + k);
    double analytic = 0, scale = 0;
    const auto gradients = run(one, graph, inputs, RefPrecision::f64);
    for (std::size_t r = 0; r < inputs.size(); ++r)
      for (const auto& [name, direction] : directions[r]) {
        const auto found = gradients[r].outputs.find("d" + name);
        if (found == gradients[r].outputs.end()) continue;
        ASSERT_EQ(found->second.shape(), direction.shape());
        for (std::int64_t i = 0; i < direction.elements(); ++i) {
          analytic += found->second.at(i) * direction.at(i);
          scale += std::abs(found->second.at(i) * direction.at(i));
        }
      }
    const auto loss = [&](double step) {
      std::vector<Inputs> moved = inputs;
      for (std::size_t r = 0; r < inputs.size(); ++r)
        for (const auto& [name, direction] : directions[r]) {
          Tensor x = moved[r].at(name).cast(DType::f64);
          for (std::int64_t i = 0; i < x.elements(); ++i) x.set(i, x.at(i) + step * direction.at(i));
          moved[r][name] = x;
        }
      const auto results = run(one, graph, moved, RefPrecision::f64);
      double sum = 0;
      for (std::size_t r = 0; r < inputs.size(); ++r)
        for (std::size_t k = 0; k < node.outputs.size(); ++k) {
          if (!is_float(node.outputs[k].dtype)) continue;
          const Tensor& y = results[r].outputs.at(std::to_string(k));
          const Tensor& w = inputs[r].at("w" + std::to_string(k));
          for (std::int64_t i = 0; i < y.elements(); ++i) sum += w.at(i) * y.at(i);
        }
      return sum;
    };
    const double step = 1e-5, numeric = (loss(step) - loss(-step)) / (2 * step);
    EXPECT_NEAR(analytic, numeric, 1e-6 * (scale + std::abs(numeric) + 1e-3)) << "gradient against central difference";
  }
}

// The half `part` of `tensor` along `dim`.
Tensor half(const Tensor& tensor, int dim, std::int64_t part) {
  Type type = tensor.type();
  const std::int64_t size = type.shape[dim] / 2;
  const std::int64_t inner = type.shape.elements(dim + 1, type.shape.rank()) * static_cast<std::int64_t>(byte_size(type.dtype));
  const std::int64_t outer = type.shape.elements(0, dim);
  type.shape.set_dim(dim, Dim(size, type.shape.dim(dim).name));
  Tensor out = Tensor::uninitialized(type);
  for (std::int64_t o = 0; o < outer; ++o)
    std::memcpy(static_cast<char*>(out.raw()) + o * size * inner,
                static_cast<const char*>(tensor.raw()) + (2 * o + part) * size * inner, static_cast<std::size_t>(size * inner));
  return out;
}

int dim_of(const std::vector<int>& dims, int factor) {
  for (std::size_t d = 0; d < dims.size(); ++d)
    if (dims[d] == factor) return static_cast<int>(d);
  return -1;
}

// Splits one factor in two and checks that the halves make the whole: joined where a result has the factor, added where it
// is summed, equal where neither.
void check_split(const OpCase& one, const ShardRule& rule, int factor) {
  SCOPED_TRACE(fmt::format("factor {}", rule.factors[static_cast<std::size_t>(factor)]));
  const Graph whole = case_graph(one);
  const Node& node = op_node(whole);
  const std::vector<Tensor> operands = make_operands(one);
  const bool summed = std::find(rule.summed.begin(), rule.summed.end(), factor) != rule.summed.end();
  const EvalResult expected = evaluate(whole, named_operands(operands));

  std::vector<Type> out = node.outputs;
  for (std::size_t k = 0; k < out.size(); ++k)
    if (const int d = dim_of(rule.results[k], factor); d >= 0) out[k].shape.set_dim(d, Dim(out[k].shape[d] / 2));
  std::vector<EvalResult> parts;
  for (std::int64_t p = 0; p < 2; ++p) {
    std::vector<Tensor> local = operands;
    std::vector<Type> types;
    std::vector<bool> absent;
    for (std::size_t k = 0; k < local.size(); ++k) {
      absent.push_back(!local[k].defined());
      if (absent.back()) {
        types.emplace_back();
        continue;
      }
      if (const int d = dim_of(rule.operands[k], factor); d >= 0) local[k] = half(local[k], d, p);
      types.push_back(local[k].type());
    }
    const Graph graph = case_graph(*one.op, types, absent, local_attrs(*one.op, node.attrs, out, p));
    ASSERT_EQ(op_node(graph).outputs, out) << "the rule and infer disagree about the split result: "
                                           << op_node(graph).outputs[0].str();
    parts.push_back(evaluate(graph, named_operands(local)));
  }
  for (std::size_t k = 0; k < out.size(); ++k) {
    const std::string name = std::to_string(k);
    const Tensor& all = expected.outputs.at(name);
    const int d = dim_of(rule.results[k], factor);
    if (d < 0 && summed) {
      Tensor sum = parts[0].outputs.at(name).clone();
      for (std::int64_t i = 0; i < sum.elements(); ++i) sum.set(i, sum.at(i) + parts[1].outputs.at(name).at(i));
      const Comparison difference = compare(sum, all);
      EXPECT_TRUE(difference.within(1e-9 * (1 + std::abs(difference.right))))
          << "result " << k << ", partial sums: " << difference.str();
      continue;
    }
    for (std::int64_t p = 0; p < 2; ++p) {
      const Comparison difference = compare(parts[static_cast<std::size_t>(p)].outputs.at(name), d < 0 ? all : half(all, d, p));
      EXPECT_TRUE(difference.within(1e-9)) << "result " << k << ", part " << p << ": " << difference.str();
    }
  }
}

TEST_P(OpMatrix, ShardedEqualsUnsharded) {
  if (op().shard.empty()) GTEST_SKIP() << op().name << " needs all of its data on one rank";
  int splits = 0;
  for (const OpCase& one : op_cases(op())) {
    if (one.dtype != one.sample.dtypes[0]) continue;
    SCOPED_TRACE(one.str());
    const Graph graph = case_graph(one);
    const Node& node = op_node(graph);
    const std::vector<Type> types = one.types();
    const ShardRule rule = shard_rule(op(), types, node.outputs, node.attrs);
    for (int factor = 0; factor < static_cast<int>(rule.factors.size()); ++factor) {
      bool even = true, present = false;
      const auto look = [&](const std::vector<int>& dims, const Shape& shape) {
        const int d = dim_of(dims, factor);
        present |= d >= 0;
        if (d >= 0) even &= shape[d] % 2 == 0 && shape[d] > 0;
      };
      for (std::size_t k = 0; k < types.size(); ++k) look(rule.operands[k], types[k].shape);
      for (std::size_t k = 0; k < node.outputs.size(); ++k) look(rule.results[k], node.outputs[k].shape);
      if (!present || !even) continue;
      check_split(one, rule, factor);
      ++splits;
    }
  }
  EXPECT_GT(splits, 0) << "no sample has an even dim that the rule \"" << op().shard << "\" can split";
}

std::string op_test_name(const testing::TestParamInfo<const OpDef*>& info) { return std::string(info.param->name); }

INSTANTIATE_TEST_SUITE_P(Ops, OpMatrix, testing::ValuesIn(all_ops().all().begin(), all_ops().all().end()), op_test_name);

}  // namespace
}  // namespace rhetor
