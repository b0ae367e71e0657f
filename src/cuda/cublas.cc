#include "cuda/cublas.h"

#include <cublasLt.h>

#include <array>
#include <map>
#include <mutex>
#include <optional>

#include "base/error.h"
#include "cuda/library.h"
#include "cuda/lt_trial.h"

namespace rhetor::gpu {
namespace {

constexpr std::size_t kWorkspace = 32u << 20;  // what Hopper's split-k algorithms are made for
constexpr std::uintptr_t kAlign = 256;         // of the workspace
constexpr std::uint32_t kOperandAlign = 64;    // what the kernel contract promises
constexpr int kMaxAlgorithms = 16;

struct Api {
  DynamicLibrary library{{"libcublasLt.so.13", "libcublasLt.so.12"}};
  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulDescInit_internal) desc_init = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&cublasLtMatrixLayoutInit_internal) layout_init = nullptr;
  decltype(&cublasLtMatrixLayoutSetAttribute) layout_set = nullptr;
  decltype(&cublasLtMatmulPreferenceInit_internal) preference_init = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic = nullptr;
  decltype(&cublasLtMatmulAlgoConfigGetAttribute) config = nullptr;
  decltype(&cublasLtGetStatusName) status_name = nullptr;
  std::size_t version = 0;

  Api() {
    if (!library.missing().empty()) return;
    create = library.symbol("cublasLtCreate", create);
    matmul = library.symbol("cublasLtMatmul", matmul);
    desc_init = library.symbol("cublasLtMatmulDescInit_internal", desc_init);
    desc_set = library.symbol("cublasLtMatmulDescSetAttribute", desc_set);
    layout_init = library.symbol("cublasLtMatrixLayoutInit_internal", layout_init);
    layout_set = library.symbol("cublasLtMatrixLayoutSetAttribute", layout_set);
    preference_init = library.symbol("cublasLtMatmulPreferenceInit_internal", preference_init);
    preference_set = library.symbol("cublasLtMatmulPreferenceSetAttribute", preference_set);
    heuristic = library.symbol("cublasLtMatmulAlgoGetHeuristic", heuristic);
    config = library.symbol("cublasLtMatmulAlgoConfigGetAttribute", config);
    status_name = library.symbol("cublasLtGetStatusName", status_name);
    version = library.symbol("cublasLtGetVersion", &cublasLtGetVersion)();
  }
};
const Api& api() {
  static const Api once;
  return once;
}

void require_lt(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw Error(ErrorKind::unsupported, fmt::format("cuBLASLt: {} failed: {}", call, api().status_name(status)));
}

// One handle a device for the life of the program; cuBLASLt allows any number of threads to use it.
cublasLtHandle_t handle_of(const CudaDevice& device) {
  static std::mutex mutex;
  static std::map<int, cublasLtHandle_t> handles;
  const std::lock_guard lock(mutex);
  cublasLtHandle_t& handle = handles[device.index];
  if (!handle) {
    require(cudaSetDevice(device.index), "cudaSetDevice");
    require_lt(api().create(&handle), "cublasLtCreate");
  }
  return handle;
}

std::optional<cudaDataType> data_type(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return CUDA_R_64F;
    case DType::f32:
      return CUDA_R_32F;
    case DType::f16:
      return CUDA_R_16F;
    case DType::bf16:
      return CUDA_R_16BF;
    case DType::f8e4m3:
      return CUDA_R_8F_E4M3;
    case DType::f8e5m2:
      return CUDA_R_8F_E5M2;
    case DType::i32:
      return CUDA_R_32I;
    case DType::i8:
      return CUDA_R_8I;
    default:
      return std::nullopt;
  }
}

std::optional<cublasLtEpilogue_t> epilogue(const LtProblem& p) {
  switch (p.activation) {
    case Activation::none:
      return p.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    case Activation::relu:
      return p.bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
    case Activation::gelu_tanh:
      return p.bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
    default:
      return std::nullopt;
  }
}

union Factor {
  float f32;
  double f64;
  std::int32_t i32;
};
Factor factor(DType dtype, int value) {
  Factor f{};
  if (dtype == DType::f64)
    f.f64 = value;
  else if (dtype == DType::i8)
    f.i32 = value;
  else
    f.f32 = static_cast<float>(value);
  return f;
}

class Plan final : public LtPlan {
 public:
  Plan(const CudaDevice& device, const LtProblem& problem) : p_(problem) {
    why_not_ = refusal();
    if (!why_not_.empty()) return;
    try {
      handle_ = handle_of(device);
      describe();
      find_algorithms();
      list_ways(device);
    } catch (const Error& e) {
      why_not_ = e.what();
    }
  }
  const std::string& why_not() const override { return why_not_; }
  int algorithms() const override { return static_cast<int>(algorithms_.size()); }
  const std::vector<CudaWay>& ways() const override { return ways_; }
  std::uint64_t workspace_bytes(int algorithm) const override {
    const std::uint64_t bytes = algorithms_[static_cast<std::size_t>(algorithm)].workspaceSize;
    return bytes ? bytes + kAlign : 0;
  }
  std::string text(int algorithm) const override {
    const cublasLtMatmulHeuristicResult_t& a = algorithms_[static_cast<std::size_t>(algorithm)];
    const auto number = [&](cublasLtMatmulAlgoConfigAttributes_t attribute) {
      std::int32_t value = 0;
      std::size_t written = 0;
      api().config(&a.algo, attribute, &value, sizeof value, &written);
      return value;
    };
    const int split = number(CUBLASLT_ALGO_CONFIG_SPLITK_NUM);
    return fmt::format("cuBLASLt algorithm {}, tile {}{}", number(CUBLASLT_ALGO_CONFIG_ID), number(CUBLASLT_ALGO_CONFIG_TILE_ID),
                       split > 1 ? fmt::format(", k split in {}", split) : "");
  }

  void run(const LtOperands& operands, void* workspace, void* stream, int algorithm) const override {
    const cublasLtMatmulHeuristicResult_t& a = algorithms_[static_cast<std::size_t>(algorithm)];
    cublasLtMatmulDescOpaque_t desc = desc_;  // pointers are attributes: every call has its own descriptor
    if (p_.bias) set(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, operands.bias);
    if (p_.scaled) {
      set(desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, operands.b_scale);
      set(desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, operands.a_scale);
    }
    const auto address = (reinterpret_cast<std::uintptr_t>(workspace) + kAlign - 1) / kAlign * kAlign;
    cublasLtMatrixLayoutOpaque_t wa = b_, wb = a_, wc = out_;
    const Factor alpha = factor(p_.a, 1), beta = factor(p_.a, p_.residual ? 1 : 0);
    require_lt(
        api().matmul(handle_, &desc, &alpha, operands.b, &wa, operands.a, &wb, &beta,
                     p_.residual ? operands.residual : operands.out, &wc, operands.out, &wc, &a.algo,
                     reinterpret_cast<void*>(a.workspaceSize ? address : 0), a.workspaceSize, static_cast<cudaStream_t>(stream)),
        "cublasLtMatmul");
  }

 private:
  template <class T>
  static void set(cublasLtMatmulDescOpaque_t& desc, cublasLtMatmulDescAttributes_t attribute, const T& value) {
    require_lt(api().desc_set(&desc, attribute, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
  }
  template <class T>
  static void set(cublasLtMatrixLayoutOpaque_t& layout, cublasLtMatrixLayoutAttribute_t attribute, const T& value) {
    require_lt(api().layout_set(&layout, attribute, &value, sizeof value), "cublasLtMatrixLayoutSetAttribute");
  }
  template <class T>
  static void set(cublasLtMatmulPreferenceOpaque_t& preference, cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
    require_lt(api().preference_set(&preference, attribute, &value, sizeof value), "cublasLtMatmulPreferenceSetAttribute");
  }

  std::string refusal() const {
    if (p_.batch * p_.m * p_.n * p_.k == 0) return "an operand is empty";
    if (!api().library.missing().empty()) return api().library.missing();
    for (const DType dtype : {p_.a, p_.b, p_.out})
      if (!data_type(dtype)) return fmt::format("cuBLASLt has no {}", name(dtype));
    if (!epilogue(p_)) return "cuBLASLt has no such activation";
    if (p_.activation == Activation::gelu_tanh && p_.out == DType::f32) return "cuBLASLt's gelu is not exact to f32";
    if (p_.residual && p_.activation != Activation::none) return "cuBLASLt adds a residual before the activation";
    if (p_.batch >= 1ll << 31) return "the batch is too large";
    return "";
  }

  void describe() {
    const bool integer = p_.a == DType::i8, wide = p_.a == DType::f64;
    const cublasComputeType_t compute = integer   ? CUBLAS_COMPUTE_32I
                                        : wide    ? CUBLAS_COMPUTE_64F
                                        : p_.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                  : CUBLAS_COMPUTE_32F;
    require_lt(api().desc_init(&desc_, sizeof desc_, compute,
                               integer ? CUDA_R_32I
                               : wide  ? CUDA_R_64F
                                       : CUDA_R_32F),
               "cublasLtMatmulDescInit");
    // Rows of b as multiplied, [k, n], are columns [n, k]: as cuBLASLt wants its first operand; so for a.
    set(desc_, CUBLASLT_MATMUL_DESC_TRANSA, p_.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(desc_, CUBLASLT_MATMUL_DESC_TRANSB, p_.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(desc_, CUBLASLT_MATMUL_DESC_EPILOGUE, *epilogue(p_));
    // Forward products in FP8 keep the 14 bits that the matrix units sum with; gradients, which have e5m2, are summed in f32.
    if (p_.a == DType::f8e4m3 && p_.b == DType::f8e4m3) set(desc_, CUBLASLT_MATMUL_DESC_FAST_ACCUM, std::int8_t{1});
    if (p_.bias) set(desc_, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<std::int32_t>(*data_type(p_.bias_dtype)));
    matrix(a_, p_.a, p_.m, p_.k, p_.transpose_a, p_.m * p_.k);
    matrix(b_, p_.b, p_.k, p_.n, p_.transpose_b, p_.shared_b ? 0 : p_.k * p_.n);
    matrix(out_, p_.out, p_.m, p_.n, false, p_.m * p_.n);
  }
  // `rows` x `cols` as multiplied; as stored its rows are columns to cuBLASLt.
  void matrix(cublasLtMatrixLayoutOpaque_t& layout, DType dtype, std::int64_t rows, std::int64_t cols, bool transposed,
              std::int64_t stride) {
    if (transposed) std::swap(rows, cols);
    require_lt(api().layout_init(&layout, sizeof layout, *data_type(dtype), static_cast<std::uint64_t>(cols),
                                 static_cast<std::uint64_t>(rows), cols),
               "cublasLtMatrixLayoutInit");
    if (p_.batch == 1) return;
    set(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<std::int32_t>(p_.batch));
    set(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, stride);
  }

  void find_algorithms() {
    cublasLtMatmulPreferenceOpaque_t preference{};
    require_lt(api().preference_init(&preference, sizeof preference), "cublasLtMatmulPreferenceInit");
    set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspace);
    set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    for (const auto operand : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                               CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      set(preference, operand, kOperandAlign);
    cublasLtMatmulDescOpaque_t desc = desc_;
    cublasLtMatrixLayoutOpaque_t wa = b_, wb = a_, wc = out_;
    if (p_.bias || p_.scaled) {  // which pointers there will be decides which kernels can serve; where they point does not
      const auto some = reinterpret_cast<const void*>(kAlign);
      if (p_.bias) set(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, some);
      if (p_.scaled) {
        set(desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, some);
        set(desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, some);
      }
    }
    std::array<cublasLtMatmulHeuristicResult_t, kMaxAlgorithms> found{};
    int count = 0;
    const cublasStatus_t status =
        api().heuristic(handle_, &desc, &wa, &wb, &wc, &wc, &preference, kMaxAlgorithms, found.data(), &count);
    if (status == CUBLAS_STATUS_SUCCESS)
      for (int i = 0; i < count; ++i)
        if (found[static_cast<std::size_t>(i)].state == CUBLAS_STATUS_SUCCESS)
          algorithms_.push_back(found[static_cast<std::size_t>(i)]);
    if (algorithms_.empty())
      why_not_ = fmt::format("cuBLASLt has no algorithm for {} x {} -> {} of this layout ({})", name(p_.a), name(p_.b),
                             name(p_.out), api().status_name(status));
  }

  // The name holds all that sets an algorithm apart. Tiles, stages, clusters and the order of blocks move work about without touching the
  // order in which one element's products are added; the family of kernels and what splits or reduces k do.
  CudaWay way(const cublasLtMatmulHeuristicResult_t& a) const {
    const auto number = [&]<class T>(cublasLtMatmulAlgoConfigAttributes_t attribute, T value) {
      std::size_t written = 0;
      return api().config(&a.algo, attribute, &value, sizeof value, &written) == CUBLAS_STATUS_SUCCESS ? static_cast<int>(value) : -1;
    };
    const std::string rounding =
        fmt::format("{}/{}/{}/{}/{}", number(CUBLASLT_ALGO_CONFIG_ID, std::int32_t{}), number(CUBLASLT_ALGO_CONFIG_SPLITK_NUM, std::int32_t{}),
                    number(CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, std::uint32_t{}),
                    number(CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, std::uint32_t{}), number(CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, std::uint16_t{}));
    return {fmt::format("{}/{}/{}/{}/{}", rounding, number(CUBLASLT_ALGO_CONFIG_TILE_ID, std::uint32_t{}),
                        number(CUBLASLT_ALGO_CONFIG_STAGES_ID, std::uint32_t{}), number(CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, std::uint16_t{}),
                        number(CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, std::uint32_t{})),
            rounding};
  }
  void list_ways(const CudaDevice& device) {
    for (const auto& a : algorithms_) ways_.push_back(way(a));
    const CudaTuner tuner = cuda_tuner();
    const int best = tuner && !ways_.empty() ? tuner(device, problem_text(p_, api().version), ways_) : 0;
    if (best <= 0 || best >= algorithms()) return;
    std::swap(algorithms_[0], algorithms_[static_cast<std::size_t>(best)]);
    std::swap(ways_[0], ways_[static_cast<std::size_t>(best)]);
  }

  LtProblem p_;
  std::string why_not_;
  std::vector<CudaWay> ways_;
  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulDescOpaque_t desc_{};
  cublasLtMatrixLayoutOpaque_t a_{}, b_{}, out_{};  // in our order of operands
  std::vector<cublasLtMatmulHeuristicResult_t> algorithms_;
};

}  // namespace

std::shared_ptr<const LtPlan> lt_plan(const CudaDevice& device, const LtProblem& problem) {
  static std::mutex mutex;
  static std::vector<std::pair<std::pair<int, LtProblem>, std::shared_ptr<const LtPlan>>> plans;  // a model has a few dozen
  const std::lock_guard lock(mutex);
  const std::pair<int, LtProblem> key{device.index, problem};
  for (const auto& [known, plan] : plans)
    if (known == key) return plan;
  plans.emplace_back(key, std::make_shared<Plan>(device, problem));
  return plans.back().second;
}

}  // namespace rhetor::gpu
