// The kernel families. Each returns its rows of the table, candidates best first; kernels.cc joins rows of the same op in the
// order of the list there, so that an op may have candidates in several files (`fused`: pointwise, norm and matmul).
// The reference is not listed: kernels.cc adds it to every op.
#pragma once

#include <vector>

#include "cpu/kernel.h"

namespace rhetor {

// matmul.cc, matmul_small.cc, matmul_i8.cc, matmul_i4.cc, conv.cc, pool.cc, quantize.cc, fused_matmul.cc
std::vector<KernelRow> matmul_small_rows();
std::vector<KernelRow> matmul_rows();
std::vector<KernelRow> matmul_i8_rows();
std::vector<KernelRow> matmul_i4_rows();
std::vector<KernelRow> conv_rows();
std::vector<KernelRow> pool_rows();
std::vector<KernelRow> quantize_rows_rows();
std::vector<KernelRow> fused_matmul_rows();
std::vector<KernelRow> float8_rows();  // float8.cc, stochastic rounding too

// Pointwise table, cast, broadcast_to, dropout, purely pointwise `fused`.
std::vector<KernelRow> pointwise_rows();
std::vector<KernelRow> layout_rows();
std::vector<KernelRow> reduce_rows();
std::vector<KernelRow> softmax_rows();
std::vector<KernelRow> norm_rows();
std::vector<KernelRow> attention_rows();
std::vector<KernelRow> embedding_rows();
std::vector<KernelRow> loss_rows();
std::vector<KernelRow> random_rows();
std::vector<KernelRow> optimizer_rows();

// reference_kernel.cc: OpDef.reference on converted buffers; takes any op.
Kernel reference_kernel(const KernelRequest& request);

}  // namespace rhetor
