// A prepared matrix product: split into slices for the pool, each slice into row blocks, each block one single-threaded oneDNN
// call. Shared by the kernels of matmul, of matmul_i8 and of fused nodes around them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "cpu/kernel.h"

namespace rhetor {

namespace onednn {
class Call;
}

// c[batch, m, n] = sum_k a[batch, m, k] b[batch, k, n], each operand's last two dims swapped in memory if transposed.
struct MatmulProblem {
  std::int64_t batch = 1, m = 1, n = 1, k = 1;
  bool transpose_a = false, transpose_b = false;
  bool shared_b = true;  // b has no batch dim
  DType a = DType::f32, b = DType::f32, c = DType::f32;
  double flops() const { return 2.0 * static_cast<double>(batch * m) * static_cast<double>(n * k); }
};
// From the types and attributes of a matmul node; leading dims of a fold into m when b is shared and a is not transposed.
MatmulProblem matmul_problem(const Type& a, const Type& b, const Type& out, bool transpose_a, bool transpose_b);

// A finished rectangle of the result seen as [batch * m, n]; called on the thread that computed it, while it is in cache.
struct Region {
  std::int64_t row_begin, row_end, col_begin, col_end;
  // Of a product that leaves its sums (cpu/product.h): where they are, in rows 32 apart; c holds nothing. Else null.
  const float* sums = nullptr;
};
// slice: which scratch of the caller's is free for this thread.
using Epilogue = void (*)(const void* context, int slice, const Region& region);

class MatmulPlan {
 public:
  // Why oneDNN cannot do it well here ("" if it can). Integer products: only where they are exact.
  static std::string refuse(const MatmulProblem& problem);
  // Can constant weights be packed? Otherwise run() needs b.
  static bool can_pack(const MatmulProblem& p) { return p.shared_b && p.batch == 1; }
  // `b` not null and can_pack: its data is packed now; run() then ignores its b. `blocked`: an epilogue follows, so keep blocks
  // in cache.
  MatmulPlan(const MatmulProblem& problem, const Tensor* b, int threads, bool blocked);

  void run(const void* a, const void* b, void* c, void* scratch, ThreadPool& pool, Epilogue epilogue = nullptr,
           const void* context = nullptr) const;

  int slices() const { return static_cast<int>(slices_.size()); }
  std::uint64_t scratch_bytes() const { return scratch_bytes_; }
  std::uint64_t packed_bytes() const { return packed_bytes_; }
  const std::string& detail() const { return detail_; }

 private:
  struct Block {
    std::shared_ptr<const onednn::Call> call;
    std::int64_t a_offset, b_offset, c_offset;  // bytes
    Region region;
  };
  // Its scratch: oneDNN's own, then b packed at run time, then a dense block of results.
  struct Slice {
    std::vector<Block> blocks;
    std::shared_ptr<const onednn::Call> pack;  // b to packed, or null
    std::int64_t pack_from = 0;                // byte offset into b
    bool dense = false;                        // results go to scratch first: oneDNN's best code writes only dense matrices
    std::uint64_t scratch = 0, packed = 0, results = 0;  // byte offsets
  };
  void run_slice(int index, const void* a, const void* b, void* c, void* scratch, Epilogue epilogue, const void* context) const;

  std::vector<Slice> slices_;
  std::int64_t c_row_bytes_ = 0, c_size_ = 0;
  std::uint64_t scratch_bytes_ = 0, packed_bytes_ = 0;
  std::string detail_;
};

}  // namespace rhetor
