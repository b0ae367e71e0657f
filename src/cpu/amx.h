// AMX tile instructions: eight registers of 16 rows x 64 bytes. Written as assembly, so that the compiler needs no AMX switch and
// orders memory around every tile load and store (GCC 12's own intrinsics do not).
#pragma once

#include <cstdint>

namespace rhetor::amx {

// All eight tiles at full size for the life of the object; tile state is the thread's own and is given back at the end, so that
// context switches stay cheap. REQUIRES: cpu_isa() == Isa::amx, which has asked the kernel for the state.
class Tiles {
 public:
  Tiles() {
    struct alignas(64) Config {
      std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
      std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    };
    static constexpr Config kFull;
    asm volatile("ldtilecfg %0" ::"m"(kFull) : "memory");
  }
  ~Tiles() { asm volatile("tilerelease" ::: "memory"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

// stride: bytes between rows.
template <int T>
[[gnu::always_inline]] inline void load(const void* p, std::int64_t stride = 64) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(T) : "memory");
}
template <int T>
[[gnu::always_inline]] inline void store(void* p, std::int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(T) : "memory");
}
template <int T>
[[gnu::always_inline]] inline void zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(T));
}
// C [16, 16] f32 += A [16, 32] bf16 times B [32, 16] bf16, the latter as rows of pairs of k.
template <int C, int A, int B>
[[gnu::always_inline]] inline void multiply_bf16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}
// C [16, 16] i32 += A [16, 64] i8 times B [64, 16] i8, the latter as rows of quads of k.
template <int C, int A, int B>
[[gnu::always_inline]] inline void multiply_i8() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

}  // namespace rhetor::amx
