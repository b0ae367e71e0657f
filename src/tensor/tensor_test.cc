#include "tensor/tensor.h"

#include <gtest/gtest.h>

#include <cmath>

namespace rhetor {
namespace {

// ---- dtypes ----------------------------------------------------------------------------------------

// Every bit pattern survives a trip through f32, and f32 values between two neighbours go to the nearer, ties to even.
template <class T>
void check_narrow(int bits, std::uint32_t sign_bit) {
  for (std::uint32_t b = 0; b < 1u << bits; ++b) {
    const T value{static_cast<decltype(T::bits)>(b)};
    const float wide = value.to_float();
    if (std::isnan(wide)) {
      EXPECT_TRUE(std::isnan(T::from_float(wide).to_float())) << b;
      continue;
    }
    ASSERT_EQ(T::from_float(wide).bits, value.bits) << b;
    const T next{static_cast<decltype(T::bits)>(b + 1)};
    if ((b & ~sign_bit) + 1 >= sign_bit || !std::isfinite(next.to_float()) || !std::isfinite(wide)) continue;
    const double middle = (static_cast<double>(wide) + static_cast<double>(next.to_float())) / 2;
    ASSERT_EQ(from_double<T>(middle).bits, (b & 1) ? next.bits : value.bits) << "tie at " << b;
    ASSERT_EQ(from_double<T>(std::nextafter(middle, static_cast<double>(wide))).bits, value.bits) << b;
    ASSERT_EQ(from_double<T>(std::nextafter(middle, static_cast<double>(next.to_float()))).bits, next.bits) << b;
  }
}
TEST(DType, NarrowFloatsRoundToNearestEven) {
  check_narrow<f16>(16, 0x8000);
  check_narrow<bf16>(16, 0x8000);
  check_narrow<f8e4m3>(8, 0x80);
  check_narrow<f8e5m2>(8, 0x80);
}
TEST(DType, OverflowAndSpecials) {
  EXPECT_TRUE(std::isinf(f16::from_float(65520.0f).to_float()));
  EXPECT_EQ(f16::from_float(65519.0f).to_float(), 65504.0f);
  EXPECT_EQ(f8e4m3::from_float(448.0f).to_float(), 448.0f);
  EXPECT_TRUE(std::isnan(f8e4m3::from_float(1000.0f).to_float()));
  EXPECT_TRUE(std::isinf(f8e5m2::from_float(INFINITY).to_float()));
  EXPECT_TRUE(std::isnan(bf16::from_float(NAN).to_float()));
  EXPECT_TRUE(std::signbit(f16::from_float(-0.0f).to_float()));
}
TEST(DType, IntegersSaturate) {
  EXPECT_EQ(from_double<std::int8_t>(300), 127);
  EXPECT_EQ(from_double<std::int8_t>(-300), -128);
  EXPECT_EQ(from_double<std::uint8_t>(-1), 0);
  EXPECT_EQ(from_double<std::int64_t>(1e300), std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(from_double<std::int32_t>(NAN), 0);
}
TEST(DType, NamesParse) {
  for (std::size_t d = 0; d < kDTypes.size(); ++d) EXPECT_EQ(parse_dtype(kDTypes[d].name), static_cast<DType>(d));
  EXPECT_THROW(parse_dtype("float"), Error);
}

// ---- shapes ----------------------------------------------------------------------------------------

TEST(Shape, CountsStridesAndNames) {
  const Shape s{Dim(2, "batch"), 3, 4};
  EXPECT_EQ(s.elements(), 24);
  EXPECT_EQ(s.strides(), (std::vector<std::int64_t>{12, 4, 1}));
  EXPECT_EQ(s.str(), "[batch:2,3,4]");
  EXPECT_EQ(s.dim(-1).size, 4);
  EXPECT_EQ(s, (Shape{2, 3, 4})) << "names do not matter";
  EXPECT_EQ(Shape{}.elements(), 1);
}
TEST(Shape, RefusesWhatCannotBe) {
  EXPECT_THROW(Shape(std::vector<std::int64_t>(9, 1)), Error);
  EXPECT_THROW(Shape(std::vector<std::int64_t>{-1}), Error);
  EXPECT_THROW((Shape{std::int64_t{1} << 40, std::int64_t{1} << 40}.elements()), Error);
}
TEST(Shape, Broadcasts) {
  EXPECT_EQ(broadcast_shapes({3, 1}, {2, 1, 4}), (Shape{2, 3, 4}));
  EXPECT_EQ(broadcast_shapes({}, {5}), (Shape{5}));
  EXPECT_EQ(broadcast_shapes({Dim(1), 4}, {Dim(2, "batch"), 4}).str(), "[batch:2,4]");
  EXPECT_THROW(broadcast_shapes({3}, {2}), Error);
}
TEST(Shape, Axes) {
  EXPECT_EQ(normalize_axis(-1, 3, "t"), 2);
  EXPECT_THROW(normalize_axis(3, 3, "t"), Error);
  EXPECT_THROW(normalize_axis(-4, 3, "t"), Error);
}

// ---- tensors ---------------------------------------------------------------------------------------

TEST(Tensor, IsAlignedAndZeroed) {
  const Tensor t(DType::f32, {5, 7});
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(t.raw()) % 64, 0u);
  for (const double v : t.to_doubles()) EXPECT_EQ(v, 0);
  EXPECT_TRUE(Tensor(DType::f32, {0}).defined());
  EXPECT_FALSE(Tensor().defined());
}
TEST(Tensor, ViewsShareMemory) {
  Tensor t = Tensor::of<float>({3, 2}, {1, 2, 3, 4, 5, 6});
  Tensor rows = t.rows(1, 3), flat = t.reshaped({6});
  rows.set(0, 30);
  EXPECT_EQ(flat.at(2), 30);
  EXPECT_EQ(t.clone().shape(), t.shape());
  EXPECT_NE(t.clone().raw(), t.raw());
  t = Tensor();
  EXPECT_EQ(rows.at(3), 6) << "a view keeps its storage alive";
  EXPECT_THROW(flat.reshaped({5}), Error);
  EXPECT_THROW(flat.rows(4, 7), Error);
  EXPECT_THROW(flat.data<double>(), Error);
  EXPECT_THROW(flat.at(6), Error);
}
TEST(Tensor, Casts) {
  const Tensor t = Tensor::of<float>({4}, {1.5f, -300, 0, 255});
  EXPECT_EQ(t.cast(DType::i8).to_doubles(), (std::vector<double>{1, -128, 0, 127}));
  EXPECT_EQ(t.cast(DType::boolean).to_doubles(), (std::vector<double>{1, 1, 0, 1}));
  EXPECT_EQ(Tensor::of<std::int64_t>({1}, {(1ll << 53) + 1}).cast(DType::i64).data<std::int64_t>()[0], (1ll << 53) + 1);
  EXPECT_THROW(Tensor::of<float>({2}, {1}), Error);
  EXPECT_EQ(t.str(2), "f32[4] {1.5, -300, ...}");
}

}  // namespace
}  // namespace rhetor
