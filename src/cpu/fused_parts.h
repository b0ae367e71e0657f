// A fused node taken apart: its contraction, and the program of everything after it. Shared by the kernels of such nodes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cpu/kernel.h"
#include "cpu/product.h"
#include "cpu/program.h"

namespace rhetor {

struct FusedParts {
  std::string why_not;  // "" if the node has this form
  const Graph* body = nullptr;
  const Node* anchor = nullptr;
  std::vector<int> anchor_operands;    // operand of the fused node, per operand of the contraction
  std::vector<int> epilogue_operands;  // operand of the fused node, per input of the program but the first (the accumulator)
  ProgramPtr program;
};
// anchor_name: "matmul", "matmul_i8", ...
FusedParts take_apart(const KernelRequest& request, std::string_view anchor_name);
// The contraction alone, its result as f32 sums.
ProductRequest inner_request(const KernelRequest& request, const FusedParts& parts);

// fused_post_ops.cc: the epilogue inside oneDNN.
std::string refuse_post_ops(const KernelRequest& request);
Kernel prepare_post_ops(const KernelRequest& request);

}  // namespace rhetor
