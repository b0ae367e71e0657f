// Generated kernels without a device: their text, and that NVRTC takes it for every architecture. Their numbers are the op
// matrix's business.
#include "cuda/codegen.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "base/error.h"
#include "base/file.h"
#include "cuda/codegen_text.h"
#include "cuda/nvrtc.h"
#include "ops/families.h"
#include "ops/ops.h"
#include "ops/registry.h"

namespace rhetor::gpu {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

struct Body {
  Graph graph;
  std::vector<ValueId> in, out;
  Value operand(Type type) {
    const Value v = graph.input(fmt::format("{}", in.size()), type);
    in.push_back(v.id());
    return v;
  }
  void result(Value v) {
    graph.output(fmt::format("{}", out.size()), v);
    out.push_back(v.id());
  }
  KernelText text() const { return pointwise_kernel(graph, in, out, {}); }
};

// Every op of the pointwise table that takes `dtype`, each on the same operands.
Body every_op(DType dtype, Shape shape) {
  Body body;
  const Value a = body.operand({dtype, shape}), b = body.operand({dtype, {shape.last()}}),
              mask = body.operand({DType::boolean, shape});
  for (const OpDef* op : pointwise_ops()) {
    std::vector<Value> operands;
    for (std::size_t k = 0; k < op->operands.size(); ++k) operands.push_back(k % 2 ? broadcast_to(b, shape) : a);
    if (op->name == "where") operands = {mask, a, a};
    try {
      body.result(body.graph.add(*op, operands));
    } catch (const Error&) {  // not for this dtype
    }
  }
  return body;
}

Body every_cast(DType from) {
  Body body;
  const Value x = body.operand({from, {40, 23}});
  for (const DType to : {DType::f64, DType::f32, DType::f16, DType::bf16, DType::f8e4m3, DType::f8e5m2, DType::i64, DType::i32,
                         DType::i8, DType::u8, DType::boolean})
    body.result(cast(x, to));
  return body;
}

Body random_numbers() {
  Body body;
  const Value x = body.operand({DType::bf16, {6, 62}}), seed = body.operand({DType::i64, {}});
  body.result(add(dropout(x, seed, 0.1, 3), broadcast_to(cast(iota(body.graph, {DType::i32, {62}}, 0), DType::bf16), {6, 62})));
  body.result(random_normal(seed, {DType::f32, {6, 62}}, 4));
  body.result(random_uniform(seed, {DType::f64, {6, 62}}, 5));
  return body;
}

KernelText norm_of(DType dtype, std::int64_t cols, bool layer) {
  Body body;
  const Value x = body.operand({dtype, {4, cols}}), r = body.operand({dtype, {4, cols}});
  const Value gamma = body.operand({dtype, {cols}}), beta = body.operand({dtype, {cols}}), sum = add(x, r);
  const NormResult norm = layer ? layer_norm_full(sum, gamma, beta) : rms_norm_full(sum, gamma);
  body.result(norm.y);
  body.result(sum);
  body.result(norm.rstd);
  return norm_kernel(body.graph, norm.y.id().node, body.in, body.out);
}

TEST(Codegen, NvrtcTakesItForEveryArchitecture) {
  if (!nvrtc_missing().empty()) GTEST_SKIP() << nvrtc_missing();
  const std::vector<KernelText> texts = {every_op(DType::bf16, {5, 33}).text(), every_cast(DType::f16).text(),
                                         random_numbers().text(), norm_of(DType::bf16, 768, true)};
  for (const int compute : {75, 80, 90, 100})
    for (const KernelText& text : texts) EXPECT_FALSE(compile_cuda(text.code, compute).empty()) << text.name;
}

TEST(Codegen, NvrtcTakesTheRareTypes) {
  if (!nvrtc_missing().empty()) GTEST_SKIP() << nvrtc_missing();
  for (const KernelText& text :
       {every_op(DType::f64, {5, 33}).text(), every_op(DType::u8, {4, 9}).text(), every_op(DType::f8e4m3, {4, 9}).text(),
        every_cast(DType::i64).text(), norm_of(DType::f16, 4096, false), norm_of(DType::f64, 33, true)})
    EXPECT_FALSE(compile_cuda(text.code, 90).empty()) << text.name;
}

TEST(Codegen, ADeviceNewerThanNvrtcGetsPtx) {
  if (!nvrtc_missing().empty()) GTEST_SKIP() << nvrtc_missing();
  EXPECT_THAT(compile_cuda(norm_of(DType::f16, 64, false).code, 999), HasSubstr(".target sm_"));
}

TEST(Codegen, ADamagedFileOfTheCacheIsMadeAgain) {
  if (!nvrtc_missing().empty()) GTEST_SKIP() << nvrtc_missing();
  const fs::path folder = fs::path(testing::TempDir()) / fmt::format("rhetor-kernels-{}", getpid());
  ASSERT_EQ(setenv("RHETOR_CACHE", folder.c_str(), 1), 0);
  const std::string source = "extern \"C\" __global__ void none() {}", image = cached_cuda(source, 90);
  ASSERT_FALSE(image.empty());
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder / "kernels")) files.push_back(entry.path());
  ASSERT_EQ(files.size(), 1u);
  const std::string good = read_file(files[0]);
  for (std::string bad : {good.substr(0, good.size() / 2), std::string(), std::string("x") + good, good}) {
    if (bad == good) bad.back() = static_cast<char>(bad.back() ^ 1);
    write_file_atomic(files[0], bad);
    EXPECT_EQ(cached_cuda(source, 90).size(), image.size());
    EXPECT_EQ(read_file(files[0]).size(), good.size());
  }
  EXPECT_NE(cached_cuda(source, 80), "");  // another device: another file
  EXPECT_EQ(std::distance(fs::directory_iterator(folder / "kernels"), fs::directory_iterator()), 2);
  unsetenv("RHETOR_CACHE");
  fs::remove_all(folder);
}

TEST(Codegen, EqualLayersAndOtherBatchesShareAKernel) {
  const auto layer = [](std::int64_t batch, std::int64_t stream) {
    Body body;
    const Value x = body.operand({DType::bf16, {batch, 128, 768}}), bias = body.operand({DType::bf16, {768}});
    const Value seed = body.operand({DType::i64, {}});
    body.result(dropout(gelu(add(x, bias)), seed, 0.1, stream));
    return body.text();
  };
  EXPECT_EQ(layer(1, 1).code, layer(32, 7).code);
}

TEST(Codegen, OperandsAreReadBySixteenBytes) {
  Body body;
  const Value x = body.operand({DType::bf16, {12, 768}}), bias = body.operand({DType::bf16, {768}}),
              row = body.operand({DType::bf16, {12, 1}});
  body.result(mul(add(x, bias), row));
  const KernelText text = body.text();
  EXPECT_EQ(text.width, 8);
  EXPECT_THAT(text.code, HasSubstr("load<BF16, 8>(a1 + c, "));  // the bias along the row
  EXPECT_THAT(text.code, HasSubstr("= load<BF16>(a2 + c0)"));   // one factor a row
  EXPECT_EQ(text.summary, "load bf16, load bf16, add, load bf16, mul, store bf16");
}

TEST(Codegen, NeighbouringDimsAreOne) {
  Body body;
  const Value x = body.operand({DType::f32, {2, 3, 5, 7}}), y = body.operand({DType::f32, {2, 3, 5, 7}});
  body.result(add(x, y));
  EXPECT_THAT(body.text().code, Not(HasSubstr("const I q")));  // one run: no division
}

TEST(Codegen, WhatItCannotDoItSays) {
  Body body;
  const Value x = body.operand({DType::f32, {4, 6}});
  body.result(reshape(x, {24}));
  EXPECT_THAT(refuse_pointwise(body.graph, body.in, body.out), HasSubstr("reshape"));
  Body two;
  const Value y = two.operand({DType::f32, {4}});
  two.result(y);
  two.result(broadcast_to(y, {2, 4}));
  EXPECT_THAT(refuse_pointwise(two.graph, two.in, two.out), HasSubstr("results have shapes"));
}

}  // namespace
}  // namespace rhetor::gpu
