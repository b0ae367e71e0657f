// What attention.cc gathers from the other files of the family.
#pragma once

#include "cuda/attention.h"
#include "cuda/families.h"

namespace rhetor::gpu {

std::vector<KernelRow> rope_rows();           // rope.cc: rope, cache_write
std::vector<KernelRow> attention_mma_rows();  // attention_mma.cc: on matrix units

// The problem of an attention node whose operand `q` (then k, v) is the first of the three.
AttentionProblem attention_problem(const KernelRequest& request, std::size_t q);
AttentionPointers attention_pointers(const KernelArgs& args, const AttentionProblem& a);
// "" if a fused node is attention over columns of wider tensors; then attention_problem(request, 0) describes it.
std::string refuse_fused_attention(const KernelRequest& request);
AttentionGradPointers attention_grad_pointers(const KernelArgs& args);

}  // namespace rhetor::gpu
