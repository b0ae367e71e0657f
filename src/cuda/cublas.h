// Matrix products by cuBLASLt, opened when first needed. A plan holds the descriptors and algorithms of one problem; equal
// problems share it. cuBLASLt is column-major: c = a b in rows is c^T = b^T a^T in columns, so the operands change places and
// nothing is copied.
//
// Every algorithm here gives the same bits run after run: reductions over parts of k go through the workspace in a fixed order.
// Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cuda/cuda.h"
#include "cuda/matmul_epilogue.h"

namespace rhetor::gpu {

// out[batch, m, n] = activation(a' b' + bias) + 0, or a' b' + bias + residual; each matrix contiguous, its last two dims swapped
// in memory if transposed. i8 x i8 gives i32; the rest sums in f32, f64 in f64.
struct LtProblem {
  std::int64_t batch = 1, m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  bool shared_b = false;  // one b for the whole batch
  DType a = DType::f32, b = DType::f32, out = DType::f32;
  Activation activation = Activation::none;  // none, relu or gelu_tanh, the three that cuBLASLt knows
  bool bias = false;
  DType bias_dtype = DType::f32;
  bool residual = false;  // of dtype `out`
  bool scaled = false;    // a and b times an f32 scalar each, on the device
  bool tf32 = false;      // f32 operands rounded to 10 bits of mantissa
  bool operator==(const LtProblem&) const = default;
};

struct LtOperands {
  const void *a = nullptr, *b = nullptr, *bias = nullptr, *residual = nullptr;
  const void *a_scale = nullptr, *b_scale = nullptr;
  void* out = nullptr;  // may be the residual
};

class LtPlan {
 public:
  virtual ~LtPlan() = default;
  // "" or why cuBLASLt cannot: it is missing, or has no algorithm for this.
  virtual const std::string& why_not() const = 0;
  // Ways to compute it, by cuBLASLt's own guess of their speed; for a tuner. All of why_not() == "" have one or more.
  virtual int algorithms() const = 0;
  // The same as names and classes of rounding. Where a tuner is set (cuda.h), the one it chose comes first.
  virtual const std::vector<CudaWay>& ways() const = 0;
  virtual std::uint64_t workspace_bytes(int algorithm = 0) const = 0;
  virtual std::string text(int algorithm = 0) const = 0;
  virtual void run(const LtOperands& operands, void* workspace, void* stream, int algorithm = 0) const = 0;
};
std::shared_ptr<const LtPlan> lt_plan(const CudaDevice& device, const LtProblem& problem);

}  // namespace rhetor::gpu
