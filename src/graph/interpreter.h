// The reference interpreter: evaluates any graph node by node with OpDef.reference. It is the eager
// mode, the debugger and the oracle of every test. Slow, exact, simple. Thread-safe (no globals).
#pragma once

#include <functional>
#include <map>
#include <string>

#include "graph/graph.h"
#include "graph/op.h"

namespace rhetor {

enum class RefPrecision {
  f64,       // every float is carried as double: the oracle
  declared,  // computed naively in f32 and rounded to each value's declared dtype: the yardstick for tolerances
};

struct EvalResult {
  std::map<std::string, Tensor> outputs;  // by output name; f64 mode returns floats as f64 tensors
  std::map<std::string, Tensor> states;   // new values of updated states, by input name
};

// `inputs` holds a tensor for every input, param and state (float tensors of any float dtype are accepted).
// Fails naming a missing input or one of the wrong shape. `watch` (optional) sees every node's results.
using Watch = std::function<void(std::int32_t node, const std::vector<Tensor>& results)>;
EvalResult evaluate(const Graph& graph, const std::map<std::string, Tensor>& inputs,
                    RefPrecision precision = RefPrecision::f64, const Watch& watch = {});

// One op on concrete tensors through its reference: the eager mode. An undefined tensor is an absent operand.
std::vector<Tensor> evaluate_op(const OpDef& op, const std::vector<Tensor>& inputs, const Attrs& attrs,
                                RefPrecision precision = RefPrecision::f64);

// Runs a sub-graph inside an op's reference: body inputs "0", "1", ... are call.in, body outputs "0", "1", ... fill call.out.
void evaluate_body(const Graph& body, RefCall<double>& call);
void evaluate_body(const Graph& body, RefCall<float>& call);

// ---- several ranks ---------------------------------------------------------------------------------
// A mesh of ranks, outermost axis first: rank = row-major position.
struct MeshAxis {
  std::string name;
  std::int64_t size;
};
// Evaluates one graph per rank (or one graph for all, if `graphs` has one entry), all in lock step: a rank runs to its next
// collective and waits for its group. The true multi-rank reference of a sharded graph. Fails if ranks meet at different
// collectives or wait for each other for ever.
std::vector<EvalResult> evaluate_ranks(const std::vector<const Graph*>& graphs, const std::vector<MeshAxis>& mesh,
                                       const std::vector<std::map<std::string, Tensor>>& inputs,
                                       RefPrecision precision = RefPrecision::f64);

}  // namespace rhetor
