// Prepared products that run by themselves or inside a fused node: one list of ways (makers) for each contraction, used by the
// rows of the plain op and of `fused`. Host side only.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cpu/fused_parts.h"
#include "cuda/cuda.h"
#include "cuda/matmul_epilogue.h"

namespace rhetor::gpu {

// The epilogue of a product at compile time.
struct Epilogue {
  Activation activation = Activation::none;
  bool bias = false, residual = false;
  DType bias_dtype = DType::f32, residual_dtype = DType::f32;
  bool quantised = false;  // times a number on the device, stored in e4m3
  DType factor_dtype = DType::f32;
  bool empty() const { return activation == Activation::none && !bias && !residual && !quantised; }
};

struct ContractionRequest {
  const CudaDevice& device;
  std::vector<Type> in;
  std::vector<const Tensor*> constants;  // per operand, null if not known at compile time
  Type out;                              // after the epilogue
  const Attrs& attrs;                    // of the contraction
  Epilogue epilogue = {};
};

struct ContractionCall {
  const void* const* in;  // the contraction's operands, null where absorbed
  const void* bias = nullptr;
  const void* residual = nullptr;
  const void* factor = nullptr;
  void* out = nullptr;
  void* scratch = nullptr;
  void* stream = nullptr;
};

class Contraction {
 public:
  virtual ~Contraction() = default;
  virtual void enqueue(const ContractionCall& call) const = 0;
  std::uint64_t scratch_bytes = 0, packed_bytes = 0;
  std::vector<bool> absorbed;  // per operand; empty: none
  std::string detail;
};

struct ContractionMaker {
  std::string (*refuse)(const ContractionRequest&);
  std::unique_ptr<Contraction> (*make)(const ContractionRequest&);
  bool quantises = false;  // can store its result in FP8
};
// matmul.cc, matmul_quantized.cc, matmul_wgmma.cc, small_matmul.cc. "simple" takes everything, but no epilogue.
extern const ContractionMaker kMatmulLt, kMatmulWgmma, kMatmulSimple, kMatmulSmall, kMatmulStream;
extern const ContractionMaker kMatmulI8Lt, kMatmulI8Wgmma, kMatmulI8Simple, kMatmulI8Small;
extern const ContractionMaker kMatmulI4Simple, kMatmulI4Small;
extern const ContractionMaker kMatmulW4Lt, kMatmulW4Simple;
extern const ContractionMaker kMatmulF8Lt, kMatmulF8Wgmma;  // matmul_f8.cc: operands as take_f8() gives them

// The rows of the tensor seen as a matrix.
inline std::int64_t rows_of(const Type& type) {
  return type.shape.last() ? type.elements() / type.shape.last() : type.shape.elements(0, type.shape.rank() - 1);
}
inline std::uint64_t aligned(std::uint64_t bytes) { return (bytes + 255) / 256 * 256; }
inline std::byte* at(void* base, std::uint64_t offset) { return static_cast<std::byte*>(base) + offset; }

Finish finish_of(const Epilogue& epilogue, const ContractionCall& call);

// A candidate for a plain contraction node.
ContractionRequest contraction_request(const KernelRequest& request);
Kernel contraction_kernel(std::unique_ptr<Contraction> contraction, std::size_t operands);
template <const ContractionMaker& maker>
Candidate contraction_candidate(std::string_view name) {
  return {.name = name,
          .refuse = [](const KernelRequest& r) { return maker.refuse(contraction_request(r)); },
          .prepare = [](const KernelRequest& r) { return contraction_kernel(maker.make(contraction_request(r)), r.in.size()); }};
}

// A fused node taken apart: FusedParts without a program, and the attributes that the contraction's maker wants.
struct Taken : FusedParts {
  Attrs maker_attrs;
};
// Body: matmul of two dequantize_f8, perhaps reshaped or transposed on the way, and what follows. The contraction's operands are
// then {a, a's scale, b, b's scale}, its attributes transpose_a and transpose_b with respect to how a and b lie in memory.
Taken take_f8(const KernelRequest& request);

// A fused node whose epilogue is sum [+ bias] [activation] [+ residual] [times a number, cast to e4m3]: which operands of the node
// they are (-1: absent).
struct ChainedEpilogue {
  Epilogue epilogue;
  int bias = -1, residual = -1, factor = -1;
};
std::optional<ChainedEpilogue> find_epilogue(const FusedParts& parts);

// matmul_fused.cc: the rows of `fused` around the contractions above.
std::vector<Candidate> fused_small_candidates();
std::vector<Candidate> fused_matmul_candidates();

}  // namespace rhetor::gpu
