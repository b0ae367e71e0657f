// The op contract: everything Rhetor knows of an op, in one value. A new op is one OpDef; shape
// inference, gradient, costs, sharding, the float64 oracle, the op matrix and the benchmark row follow.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "graph/graph.h"
#include "tensor/tensor.h"

namespace rhetor {

// How an op touches its data; fusion, memory and sharding reason with this, never with op names.
enum class OpKind {
  source,       // no operands: input, constant, iota, random
  pointwise,    // out[i] = f(in0[i], in1[i], ...), all of one shape
  broadcast,    // repeats elements: broadcast_to
  reduction,    // combines elements along axes: reduce_sum, softmax, norms
  contraction,  // sums of products: matmul, convolution, attention
  layout,       // moves elements, computes nothing: reshape, transpose, slice, concat
  opaque,       // none of the above: gather, top_k, optimiser updates, fused
  collective,   // talks to other ranks
};
std::string_view name(OpKind kind);

struct Traits {
  OpKind kind = OpKind::opaque;
  // Operand whose buffer output 0 may overwrite (same bytes, each element read before it is written), or -1.
  int inplace = -1;
  // The same promise for the further results of an op with several: {result, operand}. adamw's p, m, v overwrite theirs.
  std::vector<std::pair<int, int>> inplace_pairs = {};
  bool alias = false;          // output 0 is operand 0's buffer under another shape (reshape)
  bool commutative = false;    // operands 0 and 1 may be swapped
  bool deterministic = true;   // false would forbid CSE; random ops are deterministic (counter-based)
};

// ---- reference ---------------------------------------------------------------------------------
// A tensor inside the reference interpreter: floats as T (double, or float for the naive same-precision
// evaluation), everything else as int64.
template <class T>
struct RefTensor {
  Type type;                      // declared type; floats are carried as T whatever the declared dtype
  std::vector<T> f;               // is_float(type.dtype)
  std::vector<std::int64_t> i;    // otherwise
  std::int64_t elements() const { return type.elements(); }
  const Shape& shape() const { return type.shape; }
};

// Inputs, attributes and zero-filled outputs (already of the inferred types) for one evaluation. An absent optional
// operand is a null pointer.
template <class T>
struct RefCall {
  using Real = T;
  std::vector<const RefTensor<T>*> in;
  std::vector<RefTensor<T>> out;
  const Attrs& attrs;
  bool has(std::size_t k) const { return k < in.size() && in[k] != nullptr; }
};

// Made from one generic lambda `[](auto& call) { ... }` (no captures); `call` is a RefCall<double> or RefCall<float>.
struct Reference {
  void (*f64)(RefCall<double>&) = nullptr;
  void (*f32)(RefCall<float>&) = nullptr;
  Reference() = default;
  template <class F>
  Reference(F) : f64([](RefCall<double>& c) { F{}(c); }), f32([](RefCall<float>& c) { F{}(c); }) {}
  explicit operator bool() const { return f64 != nullptr; }
};

// ---- gradient ----------------------------------------------------------------------------------
// One node seen from the gradient graph: the forward operands and results, and d(loss)/d(result).
struct GradCall {
  Graph& graph;
  const Attrs& attrs;
  std::vector<Value> in;         // forward operands (no value: absent)
  std::vector<Value> out;        // forward results
  std::vector<Value> grad_out;   // per result; no value = zero
};
// Returns d(loss)/d(operand) per operand; no value = zero or not differentiable.
using GradFn = std::vector<Value> (*)(const GradCall&);
// Written in OpDef.grad when an op has no gradient (comparisons, top_k indices, optimiser updates).
std::vector<Value> kNotDifferentiable(const GradCall&);

// ---- cost, samples -----------------------------------------------------------------------------
struct Cost {
  double flops = 0;
  double bytes = 0;  // read + written once; what a perfect kernel moves
};
using CostFn = Cost (*)(std::span<const Type> in, std::span<const Type> out, const Attrs& attrs);
Cost bytes_only_cost(std::span<const Type> in, std::span<const Type> out, const Attrs& attrs);
Cost pointwise_cost(std::span<const Type> in, std::span<const Type> out, const Attrs& attrs);  // 1 flop an element

// How the op matrix fills one operand of a sample.
struct SampleInput {
  Type type;
  // Floats: uniform in [low, high]. Integers: uniform in {low, ..., high}.
  double low = -1.0, high = 1.0;
  bool absent = false;         // an optional operand left out
  Tensor value = {};           // set: use exactly this tensor
  bool fixed = false;          // stays f32 when the sample is tried in another dtype (statistics, scales, learning rates)
};
struct Sample {
  std::string label;           // "b2 m7 k5 n9"
  std::vector<SampleInput> inputs;
  Attrs attrs = {};
  bool differentiable = true;  // false: skip the gradient check (kinks, integer results)
  bool benchmark = false;      // large: benchmark only, not in the correctness matrix
  // Float dtypes this sample is tried in; every f32 operand is replaced by each in turn.
  std::vector<DType> dtypes = {DType::f32, DType::bf16, DType::f16};
};

using InferFn = std::vector<Type> (*)(std::span<const Type> in, const Attrs& attrs);
using SamplesFn = std::vector<Sample> (*)();

// ---- the op ------------------------------------------------------------------------------------
struct OpDef {
  std::string_view name;
  std::string_view doc;                     // formula, shapes, dtypes, source
  Traits traits;
  std::vector<std::string_view> operands;   // names, for messages; a trailing '?' marks an optional one, '*' a variadic tail
  std::vector<AttrSpec> attrs;
  InferFn infer;                            // absent optional operands arrive as rank-0 bool types
  GradFn grad;
  CostFn cost;
  // Factor rule "m k, k n -> m n | sum k": one term an operand and result, one factor a dim, '_' for a dim that cannot be sharded,
  // '...' for any leading dims; the full grammar is in ops/shard.h. Empty: the op needs all of its data on one rank.
  std::string_view shard;
  Reference reference;
  SamplesFn samples;
};

// All ops of a program, by name. Filled once (ops/registry.cc), then read-only and thread-safe.
class OpTable {
 public:
  explicit OpTable(std::vector<const OpDef*> ops);  // sorts by name; fails on a name used twice
  const OpDef* find(std::string_view name) const;
  const OpDef& at(std::string_view name) const;  // fails, naming the nearest op
  std::span<const OpDef* const> all() const { return ops_; }

 private:
  std::vector<const OpDef*> ops_;
};

// The candidate closest to `word` by edit distance ("" if none is near); for "did you mean" sentences.
std::string nearest(std::string_view word, std::span<const std::string_view> candidates);

}  // namespace rhetor
