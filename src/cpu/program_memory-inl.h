// How pointwise programs read operands into tile registers and write results from them. Included once per instruction set by
// program_run.cc.

// Per-target include guard (Highway's idiom).
#if defined(RHETOR_CPU_PROGRAM_MEMORY_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef RHETOR_CPU_PROGRAM_MEMORY_INL_H_
#undef RHETOR_CPU_PROGRAM_MEMORY_INL_H_
#else
#define RHETOR_CPU_PROGRAM_MEMORY_INL_H_
#endif

#include <algorithm>

#include "cpu/program_internal.h"
#include "cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace rhetor {
namespace HWY_NAMESPACE {

// ---- memory <-> register --------------------------------------------------------------------------------
// `n` elements from contiguous memory. Whole vectors first; the rest one by one, so that nothing outside [p, p + n) is touched.
template <class T>
HWY_INLINE void read_f32(const T* p, float* to, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + lanes() <= n; i += lanes()) store(load(p + i), to + i);
  if (i < n) store(load_n(p + i, n - i), to + i);  // the register has room for a whole vector, later runs overwrite it
}

template <class T>
void read_i32(const T* p, std::int32_t* to, std::int64_t n) {
  const I32 d;
  std::int64_t i = 0;
  if constexpr (sizeof(T) == 1) {
    using Byte = std::conditional_t<std::is_same_v<T, std::int8_t>, std::int8_t, std::uint8_t>;
    const hn::Rebind<Byte, I32> narrow;
    for (; i + lanes() <= n; i += lanes())
      hn::StoreU(hn::PromoteTo(d, hn::LoadU(narrow, reinterpret_cast<const Byte*>(p) + i)), d, to + i);
  }
  for (; i < n; ++i) to[i] = static_cast<std::int32_t>(p[i]);
}

inline void read_run(DType dtype, const void* p, std::int64_t at, void* to, std::int64_t n) {
  switch (dtype) {
    case DType::f32:
      std::memcpy(to, static_cast<const float*>(p) + at, static_cast<std::size_t>(n) * 4);
      break;
    case DType::bf16:
      read_f32(static_cast<const bf16*>(p) + at, static_cast<float*>(to), n);
      break;
    case DType::f16:
      read_f32(static_cast<const f16*>(p) + at, static_cast<float*>(to), n);
      break;
    case DType::f8e4m3:
      for (std::int64_t i = 0; i < n; ++i) static_cast<float*>(to)[i] = static_cast<const f8e4m3*>(p)[at + i].to_float();
      break;
    case DType::f8e5m2:
      for (std::int64_t i = 0; i < n; ++i) static_cast<float*>(to)[i] = static_cast<const f8e5m2*>(p)[at + i].to_float();
      break;
    case DType::f64:
    case DType::i64:
      std::memcpy(to, static_cast<const double*>(p) + at, static_cast<std::size_t>(n) * 8);
      break;
    case DType::i32:
      std::memcpy(to, static_cast<const float*>(p) + at, static_cast<std::size_t>(n) * 4);
      break;
    case DType::i8:
      read_i32(static_cast<const std::int8_t*>(p) + at, static_cast<std::int32_t*>(to), n);
      break;
    case DType::u8:
    case DType::boolean:
      read_i32(static_cast<const std::uint8_t*>(p) + at, static_cast<std::int32_t*>(to), n);
      break;
  }
}

// n copies of the element at `at`.
inline void read_repeat(DType dtype, const void* p, std::int64_t at, void* to, std::int64_t n) {
  if (byte_size(dtype) == 8) {
    const double v = static_cast<const double*>(p)[at];
    auto* out = static_cast<double*>(to);
    for (std::int64_t i = 0; i < n; ++i) std::memcpy(out + i, &v, 8);
    return;
  }
  read_run(dtype, p, at, to, 1);
  const VF v = set(*static_cast<float*>(to));  // 32 bits, whatever they mean
  auto* out = static_cast<float*>(to);
  std::int64_t i = 0;
  for (; i + lanes() <= n; i += lanes()) store(v, out + i);
  if (i < n) store_n(v, out + i, n - i);
}

// Elements [begin, begin + n) of the result's index space, through the operand's broadcast.
inline void read_tile(DType dtype, const Access& access, const void* p, std::int64_t begin, void* to, std::int64_t n) {
  const std::size_t width = byte_size(dtype) == 8 ? 8 : 4;
  const int inner = access.rank - 1;
  const std::int64_t size = access.sizes[static_cast<std::size_t>(inner)];
  const bool step = access.strides[static_cast<std::size_t>(inner)] != 0;
  for (std::int64_t done = 0; done < n;) {
    const std::int64_t e = begin + done;
    const std::int64_t col = e % size;
    std::int64_t row = e / size, at = step ? col : 0;
    for (int d = inner - 1; d >= 0; --d) {
      at += row % access.sizes[static_cast<std::size_t>(d)] * access.strides[static_cast<std::size_t>(d)];
      row /= access.sizes[static_cast<std::size_t>(d)];
    }
    const std::int64_t run = std::min(size - col, n - done);
    char* target = static_cast<char*>(to) + static_cast<std::size_t>(done) * width;
    if (step)
      read_run(dtype, p, at, target, run);
    else
      read_repeat(dtype, p, at, target, run);
    done += run;
  }
}

template <class T>
void write_f32(const float* from, T* p, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + lanes() <= n; i += lanes()) store(load(from + i), p + i);
  if (i < n) store_n(load(from + i), p + i, n - i);  // registers are padded: reading a whole vector is safe
}

inline void write_tile(DType dtype, const void* from, void* p, std::int64_t at, std::int64_t n) {
  const auto* f = static_cast<const float*>(from);
  const auto* i = static_cast<const std::int32_t*>(from);
  switch (dtype) {
    case DType::f32:
    case DType::i32:
      std::memcpy(static_cast<float*>(p) + at, from, static_cast<std::size_t>(n) * 4);
      break;
    case DType::f64:
    case DType::i64:
      std::memcpy(static_cast<double*>(p) + at, from, static_cast<std::size_t>(n) * 8);
      break;
    case DType::bf16:
      write_f32(f, static_cast<bf16*>(p) + at, n);
      break;
    case DType::f16:
      write_f32(f, static_cast<f16*>(p) + at, n);
      break;
    case DType::f8e4m3:
      for (std::int64_t k = 0; k < n; ++k) static_cast<f8e4m3*>(p)[at + k] = f8e4m3::from_float(f[k]);
      break;
    case DType::f8e5m2:
      for (std::int64_t k = 0; k < n; ++k) static_cast<f8e5m2*>(p)[at + k] = f8e5m2::from_float(f[k]);
      break;
    case DType::i8:
    case DType::u8:
    case DType::boolean: {
      auto* out = static_cast<std::uint8_t*>(p) + at;
      for (std::int64_t k = 0; k < n; ++k) out[k] = static_cast<std::uint8_t>(i[k]);
      break;
    }
  }
}

// ---- squares: `rows` x `cols` elements from (row, col) on, kBlockCols apart in the register --------------------------
constexpr std::int64_t kBlockCols = Program::kBlockCols;

template <class T>
void read_square_f32(const T* p, std::int64_t stride, std::int64_t rows, std::int64_t cols, float* to) {
  for (std::int64_t r = 0; r < rows; ++r, p += stride, to += kBlockCols) {
    if (cols == kBlockCols) {
      for (std::int64_t i = 0; i < kBlockCols; i += lanes()) store(load(p + i), to + i);
    } else {
      read_f32(p, to, cols);
    }
  }
}
template <class T>
void write_square_f32(const float* from, std::int64_t stride, std::int64_t rows, std::int64_t cols, T* p) {
  for (std::int64_t r = 0; r < rows; ++r, p += stride, from += kBlockCols) {
    if (cols == kBlockCols) {
      for (std::int64_t i = 0; i < kBlockCols; i += lanes()) store(load(from + i), p + i);
    } else {
      write_f32(from, p, cols);
    }
  }
}

// `all_cols`: of the result.
inline void read_square(DType dtype, const Operand& operand, bool full, const void* p, std::int64_t all_cols, std::int64_t row,
                        std::int64_t col, std::int64_t rows, std::int64_t cols, void* to) {
  const std::int64_t at = row * all_cols + col;
  if (full && dtype == DType::f32)
    return read_square_f32(static_cast<const float*>(p) + at, all_cols, rows, cols, static_cast<float*>(to));
  if (full && dtype == DType::bf16)
    return read_square_f32(static_cast<const bf16*>(p) + at, all_cols, rows, cols, static_cast<float*>(to));
  const std::size_t width = byte_size(dtype) == 8 ? 8 : 4;
  const Access& access = operand.access;
  // One row repeated (a bias): read once, then copied.
  const bool same_rows = access.rank == 2 && access.strides[0] == 0 && access.strides[1] == 1 && access.sizes[1] == all_cols;
  auto* line = static_cast<char*>(to);
  for (std::int64_t r = 0; r < rows; ++r, line += kBlockCols * static_cast<std::int64_t>(width)) {
    if (same_rows && r > 0) {
      std::memcpy(line, to, static_cast<std::size_t>(kBlockCols) * width);
    } else if (full) {
      read_run(dtype, p, at + r * all_cols, line, cols);
    } else {
      read_tile(dtype, access, p, at + r * all_cols, line, cols);
    }
  }
}
inline void write_square(DType dtype, const void* from, void* p, std::int64_t all_cols, std::int64_t row, std::int64_t col,
                         std::int64_t rows, std::int64_t cols) {
  const std::int64_t at = row * all_cols + col;
  const auto* f = static_cast<const float*>(from);
  if (dtype == DType::f32) return write_square_f32(f, all_cols, rows, cols, static_cast<float*>(p) + at);
  if (dtype == DType::bf16) return write_square_f32(f, all_cols, rows, cols, static_cast<bf16*>(p) + at);
  const std::size_t width = byte_size(dtype) == 8 ? 8 : 4;
  const auto* line = static_cast<const char*>(from);
  for (std::int64_t r = 0; r < rows; ++r, line += kBlockCols * static_cast<std::int64_t>(width))
    write_tile(dtype, line, p, at + r * all_cols, cols);
}

}  // namespace HWY_NAMESPACE
}  // namespace rhetor
HWY_AFTER_NAMESPACE();

#endif  // RHETOR_CPU_PROGRAM_MEMORY_INL_H_
