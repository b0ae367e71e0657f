// What attention.cc gathers from the other files of the family.
#pragma once

#include "cuda/attention.h"
#include "cuda/families.h"

namespace rhetor::gpu {

std::vector<KernelRow> rope_rows();           // rope.cc: rope, cache_write
std::vector<KernelRow> attention_step_rows(); // attention_step.cc: a token, its place in the caches and its attention
std::vector<KernelRow> attention_mma_rows();  // attention_mma.cc: on matrix units
std::vector<KernelRow> attention_grad_rows(); // attention_grad.cc: the gradient

// d / 2 wavelengths of rope on a device, f64; null if d is 0.
std::shared_ptr<void> rope_frequency(const CudaDevice& device, double theta, std::int64_t d);
// The problem of an attention node alone.
AttentionProblem describe_attention(const Attrs& attrs, const Type& q, const Type& k);
// The problem of an attention node whose operand `q` (then k, v) is the first of the three.
AttentionProblem attention_problem(const KernelRequest& request, std::size_t q);
AttentionPointers attention_pointers(const KernelArgs& args, const AttentionProblem& a);
// "" if a fused node is attention over columns of wider tensors; then attention_problem(request, 0) describes it.
std::string refuse_fused_attention(const KernelRequest& request);
// "" if the kernels on matrix units take such a problem, forward or backward.
std::string refuse_matrix_units(const KernelRequest& request, const AttentionProblem& a);

}  // namespace rhetor::gpu
