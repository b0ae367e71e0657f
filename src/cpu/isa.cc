// Which instruction sets this process may use: what the processor has, what the operating system saves for it, and what
// RHETOR_ISA leaves. The same limit is handed to Highway and to oneDNN, so that one variable tests every level.
#include <cpuid.h>
#include <oneapi/dnnl/dnnl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "base/thread_pool.h"
#include "cpu/kernel.h"
#include "hwy/highway.h"

namespace rhetor {
namespace {

struct Registers {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf = 0) {
  Registers r;
  if (!__get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d)) return {};
  return r;
}

bool bit(unsigned word, int i) { return (word >> i & 1u) != 0; }

// Register state the operating system saves on a context switch (Intel SDM 13.3): bits 1-2 AVX, 5-7 AVX-512, 17-18 AMX.
std::uint64_t saved_state() {
  if (!bit(cpuid(1).c, 27)) return 0;  // OSXSAVE
  unsigned low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return std::uint64_t{high} << 32 | low;
}

// Linux gives tile data only to a process that asked (ARCH_REQ_XCOMP_PERM for XFEATURE_XTILEDATA).
bool request_amx() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

struct Detected {
  Isa isa = Isa::avx2;
  bool avx2 = false;
};

Detected detect() {
  Detected found;
  const std::uint64_t state = saved_state();
  const Registers seven = cpuid(7), seven1 = cpuid(7, 1);
  const auto saved = [&](std::uint64_t mask) { return (state & mask) == mask; };
  found.avx2 = saved(0x6) && bit(seven.b, 5) && bit(cpuid(1).c, 12);  // AVX2 and FMA
  // F, DQ, CD, BW, VL
  const bool avx512 =
      saved(0xe6) && bit(seven.b, 16) && bit(seven.b, 17) && bit(seven.b, 28) && bit(seven.b, 30) && bit(seven.b, 31);
  if (!avx512) return found;
  found.isa = Isa::avx512;
  if (!bit(seven1.a, 5) || !bit(seven.c, 11)) return found;  // AVX512_BF16, AVX512_VNNI
  found.isa = Isa::avx512_bf16;
  // AMX-BF16, AMX-TILE, AMX-INT8
  if (saved(0x60000) && bit(seven.d, 22) && bit(seven.d, 24) && bit(seven.d, 25) && request_amx()) found.isa = Isa::amx;
  return found;
}

constexpr std::string_view kNames[] = {"avx2", "avx512", "avx512_bf16", "amx"};

Isa limited() {
  const Detected found = detect();
  if (!found.avx2) {
    fail(ErrorKind::unsupported, "this processor ({}) lacks AVX2 and FMA, which Rhetor needs; run it on an x86-64-v3 machine",
         cpu_description());
  }
  Isa isa = found.isa;
  if (const char* wish = std::getenv("RHETOR_ISA"); wish && *wish) {
    int level = -1;
    for (int i = 0; i < 4; ++i)
      if (kNames[i] == wish) level = i;
    if (level < 0) fail("RHETOR_ISA is '{}', expected avx2, avx512, avx512_bf16 or amx", wish);
    if (level < static_cast<int>(isa)) isa = static_cast<Isa>(level);
  }
  if (isa == Isa::avx2) hwy::DisableTargets(HWY_AVX3 | HWY_AVX3_DL);
  if (isa == Isa::avx512) hwy::DisableTargets(HWY_AVX3_DL);
  constexpr dnnl_cpu_isa_t kLimits[] = {dnnl_cpu_isa_avx2, dnnl_cpu_isa_avx512_core, dnnl_cpu_isa_avx512_core_bf16,
                                        dnnl_cpu_isa_all};
  // Refused only if oneDNN has already chosen, which nothing does before the first kernel is.
  dnnl_set_max_cpu_isa(kLimits[static_cast<int>(isa)]);
  return isa;
}

std::string brand() {
  char text[49] = {};
  if (cpuid(0x80000000u).a < 0x80000004u) return "x86-64";
  for (unsigned i = 0; i < 3; ++i) {
    const Registers r = cpuid(0x80000002u + i);
    std::memcpy(text + 16 * i, &r, 16);
  }
  std::string out;
  for (const char* p = text; *p; ++p)
    if (*p != ' ' || (!out.empty() && out.back() != ' ')) out += *p;
  while (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

}  // namespace

Isa cpu_isa() {
  static const Isa isa = limited();
  return isa;
}

std::string cpu_description() {
  const Detected found = detect();
  std::string sets = found.avx2 ? std::string(kNames[static_cast<int>(found.isa)]) : "no avx2";
  if (found.isa == Isa::amx) sets = "avx512_bf16 amx";
  if (const char* wish = std::getenv("RHETOR_ISA"); wish && *wish) sets += fmt::format(", limited to {} by RHETOR_ISA", wish);
  return fmt::format("{}, {} cores, {}", brand(), available_cores(), sets);
}

}  // namespace rhetor
