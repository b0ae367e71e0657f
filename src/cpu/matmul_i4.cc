// matmul_i4 and dequantize_i4: group-wise int4 weights. Few rows are bound by reading the panels once, many by the byte products; both
// go through the same panels with the same bits, however many rows there are. (AMX prefills use matmul_w4, see passes/quantize.cc.)
#include <algorithm>
#include <cstring>

#include "cpu/families.h"
#include "cpu/int4.h"
#include "cpu/kernel_util.h"
#include "cpu/pack_cache.h"
#include "cpu/panels.h"
#include "cpu/product.h"
#include "ops/ops.h"

namespace rhetor {
namespace {

// Weights a thread should at least read to be worth waking.
constexpr std::uint64_t kMinSliceBytes = 48 << 10;

void pack(const I4Shape& s, const std::uint8_t* q, const f16* scale, std::uint8_t* to) {
  std::memset(to, 0, s.bytes());  // columns past n: scale 0
  const std::int64_t row_bytes = s.k() / 2;
  for (std::int64_t column = 0; column < s.n; ++column) {
    const std::int64_t c = column % kI4Columns;
    std::uint8_t* panel = to + column / kI4Columns * s.panel_bytes();
    for (std::int64_t g = 0; g < s.groups; ++g) {
      std::uint8_t* group = panel + g * kI4GroupBytes;
      std::memcpy(group + 2 * c, &scale[column * s.groups + g], 2);
      const std::uint8_t* from = q + column * row_bytes + 16 * g;
      for (int step = 0; step < 4; ++step) {  // 8 k, 4 bytes
        std::uint8_t* line = group + 64 + 256 * (c / 16) + 64 * step + 4 * (c % 16);
        const auto nibble = [&](int k) { return static_cast<unsigned>(from[4 * step + k / 2] >> (k % 2 * 4) & 15); };
        for (int b = 0; b < 4; ++b) line[b] = static_cast<std::uint8_t>(nibble(b) | nibble(4 + b) << 4);
      }
    }
  }
}

struct I4Kernel {
  I4Rows rows;
  int most;
  std::string_view name;
};

class PanelProductI4 final : public Product {
 public:
  PanelProductI4(const ProductRequest& r, I4Kernel kernel) : kernel_(kernel), c_dtype_(r.out.dtype) {
    const Shape& x = r.in[0].shape;
    shape_ = {.n = r.in[2].shape[0], .groups = x.last() / kInt4Group};
    m_ = x.elements() / x.last();
    weights_ = shared_i4_panels(shape_, *r.constants[2], *r.constants[3]);
    packed_bytes = shape_.bytes();
    absorbed = {false, false, true, true};
    shift_bytes_ = round_up(static_cast<std::uint64_t>(m_ * shape_.groups) * 4);
    scratch_bytes = shift_bytes_;
    const std::uint64_t work = std::max<std::uint64_t>(1, static_cast<std::uint64_t>(m_) / 4) * shape_.bytes();
    slices = static_cast<int>(std::clamp<std::uint64_t>(work / kMinSliceBytes, 1,
                                                        static_cast<std::uint64_t>(std::min<std::int64_t>(r.threads, shape_.panels()))));
    detail = fmt::format("{} panels of {} int4 columns, {}{}", shape_.panels(), kI4Columns, kernel.name,
                         slices > 1 ? fmt::format(", n split in {}", slices) : "");
  }

  void run(const void* const* in, void* c, void* scratch, ThreadPool& pool, Epilogue epilogue, const void* context) const override {
    auto* shift = static_cast<std::int32_t*>(scratch);
    const auto* x = static_cast<const std::int8_t*>(in[0]);
    pool.parallel_for(m_, 64, [&](std::int64_t begin, std::int64_t end) {
      i4_shifts(x + begin * shape_.k(), (end - begin) * shape_.groups, shift + begin * shape_.groups);
    });
    struct Job {
      const PanelProductI4* self;
      const std::int8_t* x;
      const float* x_scale;
      const std::int32_t* shift;
      std::byte* c;
      Epilogue epilogue;
      const void* context;
    } job{this, x, static_cast<const float*>(in[1]), shift, static_cast<std::byte*>(c), epilogue, context};
    pool.run(
        slices,
        [](void* opaque, int i) {
          const auto& j = *static_cast<const Job*>(opaque);
          const PanelProductI4& p = *j.self;
          const std::int64_t begin = part_begin(p.shape_.panels(), p.slices, i), end = part_begin(p.shape_.panels(), p.slices, i + 1);
          for (std::int64_t panel = begin; panel < end; ++panel) p.run_panel(panel, j.x, j.x_scale, j.shift, j.c);
          if (j.epilogue) j.epilogue(j.context, i, {0, p.m_, begin * kI4Columns, std::min(p.shape_.n, end * kI4Columns)});
        },
        &job);
  }

 private:
  void run_panel(std::int64_t panel, const std::int8_t* x, const float* x_scale, const std::int32_t* shift, std::byte* c) const {
    alignas(64) float tile[kI4VnniRows * kI4Columns];
    const std::int64_t first = panel * kI4Columns, cols = std::min(kI4Columns, shape_.n - first), groups = shape_.groups;
    const auto size = static_cast<std::int64_t>(byte_size(c_dtype_));
    const auto* weights = static_cast<const std::uint8_t*>(weights_.get()) + panel * shape_.panel_bytes();
    for (std::int64_t row = 0; row < m_;) {
      // Two even parts rather than a full one and a scrap: 7 rows are 4 and 3.
      const std::int64_t left = m_ - row, most = kernel_.most;
      const int rows = static_cast<int>(left >= 2 * most ? most : left > most ? (left + 1) / 2 : left);
      kernel_.rows(weights, groups, x + row * shape_.k(), x_scale + row * groups, shift + row * groups, rows, tile);
      for (int r = 0; r < rows; ++r)
        narrow(tile + r * kI4Columns, c_dtype_, c + ((row + r) * shape_.n + first) * size, cols);
      row += rows;
    }
  }

  I4Kernel kernel_;
  DType c_dtype_;
  I4Shape shape_;
  std::int64_t m_ = 0;
  std::shared_ptr<void> weights_;
  std::uint64_t shift_bytes_ = 0;
};

std::string refuse_panels(const ProductRequest& r) {
  if (!is_fast_float(r.out.dtype)) return fmt::format("writes f32, bf16 and f16, not {}", name(r.out.dtype));
  if (!r.constants[2] || !r.constants[3]) return "the weights are not known at compile time";
  if (r.in[0].elements() * r.in[2].elements() == 0) return "an operand is empty";
  return "";
}
std::string refuse_vnni(const ProductRequest& r) {
  return cpu_isa() < Isa::avx512_bf16 ? "needs AVX512_VNNI" : refuse_panels(r);
}
std::unique_ptr<Product> make_vnni(const ProductRequest& r) {
  return std::make_unique<PanelProductI4>(r, I4Kernel{i4_rows_vnni, kI4VnniRows, "vnni"});
}
std::unique_ptr<Product> make_avx2(const ProductRequest& r) {
  return std::make_unique<PanelProductI4>(r, I4Kernel{i4_rows_avx2, kI4Avx2Rows, "i16 pairs"});
}

// ---- dequantize_i4 --------------------------------------------------------------------------------
struct DequantizeParams {
  std::int64_t groups;
  DType dtype;
};
void run_dequantize(const void* opaque, const KernelArgs& args) {
  const auto& p = *static_cast<const DequantizeParams*>(opaque);
  args.pool.parallel_for(p.groups, 1024, [&](std::int64_t begin, std::int64_t end) {
    float values[kInt4Group];
    for (std::int64_t g = begin; g < end; ++g) {
      const auto* q = static_cast<const std::uint8_t*>(args.in[0]) + g * kInt4Group / 2;
      const float scale = static_cast<const f16*>(args.in[1])[g].to_float();
      for (int j = 0; j < kInt4Group / 2; ++j) {
        values[2 * j] = static_cast<float>((q[j] & 15) - 8) * scale;
        values[2 * j + 1] = static_cast<float>((q[j] >> 4) - 8) * scale;
      }
      narrow(values, p.dtype, static_cast<std::byte*>(args.out[0]) + g * kInt4Group * static_cast<std::int64_t>(byte_size(p.dtype)), kInt4Group);
    }
  });
}
std::string refuse_dequantize(const KernelRequest& r) {
  return is_fast_float(r.out[0].dtype) ? "" : fmt::format("writes f32, bf16 and f16, not {}", name(r.out[0].dtype));
}
Kernel prepare_dequantize(const KernelRequest& r) {
  return {.run = run_dequantize, .params = std::make_shared<DequantizeParams>(DequantizeParams{r.in[1].elements(), r.out[0].dtype}),
          .detail = "one pass a group"};
}

}  // namespace

std::shared_ptr<void> shared_i4_panels(const I4Shape& s, const Tensor& wq, const Tensor& w_scale) {
  const Hash128 scales = content_of(w_scale);
  const std::string form = fmt::format("int4 panels [{}, {}], scales {:016x}{:016x}", s.n, s.k(), scales.low, scales.high);
  return shared_pack(content_of(wq), form, s.bytes(), [&](void* to) {
    pack(s, static_cast<const std::uint8_t*>(wq.raw()), static_cast<const f16*>(w_scale.raw()), static_cast<std::uint8_t*>(to));
  });
}

const std::vector<ProductMaker>& matmul_i4_makers() {
  static const std::vector<ProductMaker> makers = {{"cpu.matmul_i4.vnni", refuse_vnni, make_vnni}, {"cpu.matmul_i4.avx2", refuse_panels, make_avx2}};
  return makers;
}

KernelRow matmul_w4_row();  // matmul_w4.cc

std::vector<KernelRow> matmul_i4_rows() {
  return {matmul_w4_row(),
          {"matmul_i4",
           {product_candidate<refuse_vnni, make_vnni>("cpu.matmul_i4.vnni"), product_candidate<refuse_panels, make_avx2>("cpu.matmul_i4.avx2")}},
          {"dequantize_i4", {{"cpu.dequantize_i4", refuse_dequantize, prepare_dequantize}}}};
}

}  // namespace rhetor
