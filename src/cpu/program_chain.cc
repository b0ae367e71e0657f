// The commonest epilogues, in one pass through vector registers: sums [+ bias] [activation] [+ residual] -> store. The machine of
// program_run.cc would pass every tile through memory once an instruction, which costs as much as the product itself where AMX
// made that cheap. Same operations in the same order, so the results are the same bits (but bf16 below 2^-126, which AVX512_BF16
// rounds to 0).
#include "cpu/program_internal.h"
#include "cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/program_chain.cc"
#include "hwy/foreach_target.h"  // NOLINT: re-includes this file per instruction set
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rhetor {
namespace HWY_NAMESPACE {

// Memory of f32 or bf16 elements, or none.
struct ChainMemory {
  const float* f32 = nullptr;
  const bf16* half = nullptr;
  ChainMemory(const void* p, DType dtype)
      : f32(dtype == DType::f32 ? static_cast<const float*>(p) : nullptr),
        half(dtype == DType::bf16 ? static_cast<const bf16*>(p) : nullptr) {}
  explicit operator bool() const { return f32 || half; }
  HWY_INLINE VF at(std::int64_t i, std::int64_t n) const { return f32 ? load_some(f32 + i, n) : load_some(half + i, n); }
};

// AVX512_BF16's rounding, one instruction for nine. Assembly, since Highway 1.0 has no target with it.
HWY_INLINE void store_rounded(VF x, bf16* p) {
  if constexpr (hn::MaxLanes(F32()) == 16) {
    hn::Vec<hn::Rebind<std::uint16_t, F32>> half;
    asm("vcvtneps2bf16 %1, %0" : "=v"(half.raw) : "v"(x.raw));
    hn::StoreU(half, hn::Rebind<std::uint16_t, F32>(), reinterpret_cast<std::uint16_t*>(p));
  } else {
    store(x, p);
  }
}

// bf16_unit: the processor rounds to bf16 itself.
template <bool bf16_unit, class Act>
void chain_rows(const Chain& chain, const void* const* in, void* out, std::int64_t all_cols, const ProgramBlock& block, Act act) {
  constexpr std::int64_t kVectors = Program::kBlockCols / hn::MaxLanes(F32());
  const ChainMemory bias(chain.bias >= 0 ? in[chain.bias] : nullptr, chain.bias_dtype);
  const ChainMemory residual(chain.residual >= 0 ? in[chain.residual] : nullptr, chain.residual_dtype);
  std::int64_t n[kVectors];
  VF b[kVectors];
  for (std::int64_t v = 0; v < kVectors; ++v) {
    n[v] = std::clamp<std::int64_t>(block.cols - v * lanes(), 0, lanes());
    b[v] = bias && n[v] > 0 ? bias.at(block.col + v * lanes(), n[v]) : zero();
  }
  const float* sums = block.sums;
  for (std::int64_t row = block.row; row < block.row + block.rows; ++row, sums += Program::kBlockCols) {
    for (std::int64_t v = 0; v < kVectors; ++v) {
      if (n[v] == 0) break;
      const std::int64_t at = row * all_cols + block.col + v * lanes();
      VF x = load(sums + v * lanes());
      if (bias) x = hn::Add(x, b[v]);
      x = act(x);
      if (residual) x = hn::Add(x, residual.at(at, n[v]));
      if (chain.out == DType::f32)
        store_some(x, static_cast<float*>(out) + at, n[v]);
      else if (bf16_unit && n[v] == lanes())
        store_rounded(x, static_cast<bf16*>(out) + at);
      else
        store_some(x, static_cast<bf16*>(out) + at, n[v]);
    }
  }
}

void run_chain_target(const Chain& chain, const void* const* in, void* out, std::int64_t all_cols, const ProgramBlock& block,
                      bool bf16_unit) {
  const auto run = [&](auto act) {
    if (bf16_unit)
      chain_rows<true>(chain, in, out, all_cols, block, act);
    else
      chain_rows<false>(chain, in, out, all_cols, block, act);
  };
  switch (chain.activation) {
    case Code::relu:
      return run([](VF x) { return hn::Max(zero(), x); });
    case Code::gelu:
      return run([](VF x) { return vgelu(x); });
    case Code::gelu_tanh:
      return run([](VF x) { return vgelu_tanh(x); });
    case Code::silu:
      return run([](VF x) { return hn::Mul(x, vsigmoid(x)); });
    case Code::tanh:
      return run([](VF x) { return vtanh(x); });
    default:
      return run([](VF x) { return x; });
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace rhetor
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <map>

#include "cpu/kernel.h"

namespace rhetor {

HWY_EXPORT(run_chain_target);

void run_chain(const Chain& chain, const void* const* in, void* out, std::int64_t all_cols, const ProgramBlock& block) {
  static const bool bf16_unit = cpu_isa() >= Isa::avx512_bf16;
  HWY_DYNAMIC_DISPATCH(run_chain_target)(chain, in, out, all_cols, block, bf16_unit);
}

std::optional<Chain> find_chain(const Program& program) {
  const auto handled = [](DType dtype) { return dtype == DType::f32 || dtype == DType::bf16; };
  if (!program.prologue.empty() || !program.single_output) return {};
  Chain chain;
  std::map<std::int16_t, const Instr*> loads;  // by register: each is written once before registers are allocated
  std::int16_t current = -1;
  for (const Instr& s : program.body) {
    if (s.code == Code::load) {
      if (program.operands[static_cast<std::size_t>(s.slot)].input == 0) {
        if (current >= 0) return {};
        current = s.dst;
      } else {
        loads[s.dst] = &s;
      }
      continue;
    }
    if (s.code == Code::store) {
      if (s.a != current || !handled(s.dtype)) return {};
      chain.out = s.dtype;
      return chain;
    }
    if (s.lane != Lane::f32 || current < 0) return {};
    if (s.code == Code::add) {
      const auto other = loads.find(s.a == current ? s.b : s.a);
      if ((s.a != current && s.b != current) || other == loads.end() || !handled(other->second->dtype)) return {};
      const Instr& load = *other->second;
      const Operand& operand = program.operands[static_cast<std::size_t>(load.slot)];
      const Access& access = operand.access;
      const bool every_row =
          access.rank == 2 && access.strides[0] == 0 && access.strides[1] == 1 && access.sizes[1] == program.cols;
      if (operand.input < 0) return {};
      if (every_row && chain.bias < 0 && chain.activation == Code::load && chain.residual < 0) {
        chain.bias = operand.input;
        chain.bias_dtype = load.dtype;
      } else if (load.full && chain.residual < 0) {
        chain.residual = operand.input;
        chain.residual_dtype = load.dtype;
      } else {
        return {};
      }
    } else if (s.code == Code::relu || s.code == Code::gelu || s.code == Code::gelu_tanh || s.code == Code::silu ||
               s.code == Code::tanh) {
      if (chain.activation != Code::load || chain.residual >= 0) return {};
      chain.activation = s.code;
    } else {
      return {};
    }
    current = s.dst;
  }
  return {};
}

}  // namespace rhetor
#endif  // HWY_ONCE
