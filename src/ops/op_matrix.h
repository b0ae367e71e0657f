// The op matrix: every op x sample x dtype, made from the registry alone. The reference tests, the kernels' tests and
// `bench ops` walk the same cases, with the same data.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "graph/op.h"

namespace rhetor {

struct OpCase {
  const OpDef* op = nullptr;
  Sample sample;
  DType dtype = DType::f32;  // what the sample's f32 operands are replaced by
  std::string str() const;   // "matmul / b2 m7 k5 n9 / bf16"
  // Operand types with the dtype put in; an absent operand is a rank-0 bool.
  std::vector<Type> types() const;
  // Ranks that take part: the group of a collective, else 1.
  std::int64_t ranks() const;
};

// The cases of one op: `benchmark` chooses the large samples, else the small ones. A sample without an operand that could be
// replaced appears once.
std::vector<OpCase> op_cases(const OpDef& op, bool benchmark = false);

// The operands, a pure function of the case and the rank; an absent one is undefined.
std::vector<Tensor> make_operands(const OpCase& one, std::int64_t rank = 0);
// The same, by graph input name ("0", "1", ...), for case_graph().
std::map<std::string, Tensor> named_operands(const std::vector<Tensor>& operands);

// One node: inputs "0", "1", ... (absent operands left out), outputs "0", "1", ... `types` and `attrs` default to the case's.
Graph case_graph(const OpCase& one);
Graph case_graph(const OpDef& op, const std::vector<Type>& types, const std::vector<bool>& absent, const Attrs& attrs);

}  // namespace rhetor
