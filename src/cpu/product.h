// A prepared contraction that can be run by itself or inside a fused node: it writes c [rows, n] and tells an epilogue of every
// rectangle it has finished, on the thread that made it, while it is in cache.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "cpu/kernel.h"
#include "cpu/matmul_plan.h"

namespace rhetor {

struct ProductRequest {
  std::vector<Type> in;
  std::vector<const Tensor*> constants;
  Type out;                      // c, in the dtype wanted (an f32 accumulator for a fused bf16 node)
  const Attrs& attrs;            // of the contraction
  int threads = 1;
  bool blocked = false;          // an epilogue follows
  bool takes_sums = false;       // and can read Region::sums, so that c need not be written
};

class Product {
 public:
  virtual ~Product() = default;
  // in: the operands, null where absorbed. Concurrent runs need their own scratch.
  virtual void run(const void* const* in, void* c, void* scratch, ThreadPool& pool, Epilogue epilogue,
                   const void* context) const = 0;
  bool leaves_sums = false;             // c is not written, every region comes with its sums, at most 32 x 32
  int slices = 1;                       // epilogues run for slice numbers below this
  std::uint64_t scratch_bytes = 0, packed_bytes = 0;
  std::vector<bool> absorbed;           // per operand
  std::string detail;
};

// One way to compute a contraction; the same shape as Candidate, for plain and fused nodes alike.
struct ProductMaker {
  std::string_view name;                // "cpu.matmul.onednn"
  std::string (*refuse)(const ProductRequest&);
  std::unique_ptr<Product> (*make)(const ProductRequest&);
};
// matmul.cc, matmul_i8.cc, matmul_i4.cc, matmul_w4.cc: best first.
const std::vector<ProductMaker>& matmul_makers();
const std::vector<ProductMaker>& matmul_i8_makers();
const std::vector<ProductMaker>& matmul_i4_makers();
const std::vector<ProductMaker>& matmul_w4_makers();

// matmul_tiles.cc, for the lists above.
std::string refuse_tiles(const ProductRequest& request);
std::string refuse_tiles_i8(const ProductRequest& request);
std::string refuse_tiles_w4(const ProductRequest& request);
std::unique_ptr<Product> make_tiles(const ProductRequest& request);
std::unique_ptr<Product> make_tiles_i8(const ProductRequest& request);
std::unique_ptr<Product> make_tiles_w4(const ProductRequest& request);
// matmul_w4.cc: matmul_w4 as c[m, n] = sum_k x[m, k] w[n, k] in bf16.
MatmulProblem matmul_w4_problem(const ProductRequest& request);
// matmul_fresh.cc: both operands change at every run.
std::string refuse_fresh(const ProductRequest& request);
std::unique_ptr<Product> make_fresh(const ProductRequest& request);
// matmul_i8.cc: matmul_i8 as c[m, n] = sum_k x[m, k] w[n, k], before scaling.
MatmulProblem matmul_i8_problem(const ProductRequest& request);

// The kernel of a plain contraction node.
ProductRequest product_request(const KernelRequest& request);
Kernel product_kernel(const KernelRequest& request, std::unique_ptr<Product> product);
// Candidates from functions: `candidate<refuse, make>(name)`.
template <auto refuse, auto make>
Candidate product_candidate(std::string_view name) {
  return {.name = name,
          .refuse = [](const KernelRequest& r) { return refuse(product_request(r)); },
          .prepare = [](const KernelRequest& r) { return product_kernel(r, make(product_request(r))); }};
}

}  // namespace rhetor
