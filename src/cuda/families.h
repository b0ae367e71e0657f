// The families of CUDA kernels. Each returns its rows of the table, candidates best first; kernels.cc joins rows of the same op in
// the order of the list there.
#pragma once

#include <vector>

#include "cuda/cuda.h"

namespace rhetor::gpu {

std::vector<KernelRow> matmul_rows();        // matmul, matmul_i8, matmul_i4, matmul_w4, f8 products, fused around them
std::vector<KernelRow> small_matmul_rows();  // few rows: bound by the weights' bytes
std::vector<KernelRow> quantize_rows();      // quantize_rows, dequantize_*, quantize_f8, stochastic_round
std::vector<KernelRow> conv_rows();          // convolutions and pooling
std::vector<KernelRow> pointwise_rows();     // pointwise table, cast, broadcast_to, dropout, random, iota, fused ones, fused norms
std::vector<KernelRow> layout_rows();        // reshape, transpose, slice, pad, concat, gather, scatter, top_k, cumsum, cache_write
std::vector<KernelRow> reduce_rows();        // reductions, argmax, sum_squares
std::vector<KernelRow> softmax_rows();
std::vector<KernelRow> norm_rows();
std::vector<KernelRow> attention_rows();     // attention, its gradient, rope
std::vector<KernelRow> embedding_rows();
std::vector<KernelRow> loss_rows();          // cross-entropy
std::vector<KernelRow> optimizer_rows();

}  // namespace rhetor::gpu
