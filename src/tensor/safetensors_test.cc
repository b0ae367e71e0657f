#include "tensor/safetensors.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "base/rng.h"

namespace rhetor {
namespace {

std::filesystem::path scratch(const char* name) { return std::filesystem::path(testing::TempDir()) / name; }

// A file in memory: header text, then data. The copy is aligned like a mapping.
Safetensors parse(const std::string& bytes) {
  Tensor block = Tensor::uninitialized({DType::u8, {static_cast<std::int64_t>(bytes.size())}});
  std::memcpy(block.raw(), bytes.data(), bytes.size());
  const auto keep = std::make_shared<Tensor>(block);
  return parse_safetensors({static_cast<const std::byte*>(block.raw()), bytes.size()}, "test", keep);
}
std::string file(const std::string& header, std::size_t data, std::uint64_t claimed = ~0ull) {
  const std::uint64_t size = claimed == ~0ull ? header.size() : claimed;
  std::string out;
  for (int i = 0; i < 8; ++i) out += static_cast<char>(size >> 8 * i & 255);
  return out + header + std::string(data, '\1');
}
void expect_refused(const std::string& bytes, const std::string& reason) {
  try {
    parse(bytes);
    FAIL() << "accepted; expected: " << reason;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(reason), std::string::npos) << error.what();
    EXPECT_EQ(error.kind(), ErrorKind::invalid);
  }
}

TEST(Safetensors, WritesAndReadsEveryDType) {
  std::map<std::string, Tensor> tensors;
  for (std::size_t d = 0; d < kDTypes.size(); ++d) {
    Tensor t(static_cast<DType>(d), {3, 5});
    for (std::int64_t i = 0; i < 15; ++i) t.set(i, static_cast<double>(i % 2));
    tensors[std::string(kDTypes[d].name)] = t;
  }
  tensors["scalar"] = Tensor::scalar<float>(2.5f);
  tensors["empty"] = Tensor(DType::f32, {0, 4});
  const auto path = scratch("all.safetensors");
  save_safetensors(path, tensors, {{"format", "rhetor"}, {"ü \"quoted\"", "\n"}});
  const Safetensors back = load_safetensors(path);
  ASSERT_EQ(back.tensors.size(), tensors.size());
  EXPECT_EQ(back.metadata.at("ü \"quoted\""), "\n");
  for (const auto& [name, t] : tensors) {
    const Tensor& got = back.tensors.at(name);
    EXPECT_EQ(got.type(), t.type()) << name;
    EXPECT_EQ(std::memcmp(got.raw(), t.raw(), t.bytes()), 0) << name;
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(got.raw()) % byte_size(t.dtype()), 0u) << name;
  }
}

TEST(Safetensors, MisalignedDataIsCopied) {
  const auto back = parse(
      file(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})", 5));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(back.tensors.at("b").raw()) % 4, 0u);
}

TEST(Safetensors, RefusesHostileHeaders) {
  const auto one = [](const std::string& fields) { return "{\"a\":{" + fields + "}}"; };
  const std::string good = R"("dtype":"F32","shape":[2],"data_offsets":[0,8])";
  EXPECT_NO_THROW(parse(file(one(good), 8)));
  expect_refused("", "too few");
  expect_refused(file("{}", 0, 1ull << 40), "the header claims");
  expect_refused(file("{}", 0, ~0ull - 7), "the header claims");
  expect_refused(file("[]", 0), "does not begin");
  expect_refused(file("{\"a\":", 0), "not JSON");
  expect_refused(file("{\"a\":\xff}", 0), "not JSON");
  expect_refused(file(one(good), 7), "truncated");
  expect_refused(file(one(good), 9), "belong to nothing");
  expect_refused(file(one(R"("dtype":"F31","shape":[2],"data_offsets":[0,8])"), 8), "F31");
  expect_refused(file(one(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"), 8), "needs 12 bytes");
  expect_refused(file(one(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"), 8), "negative");
  expect_refused(file(one(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"), 8), "fraction");
  expect_refused(file(one(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"), 8), "growing");
  expect_refused(file(one(R"("dtype":"F32","shape":[2],"data_offsets":[0])"), 8), "two growing");
  expect_refused(file(one(R"("dtype":"F32","shape":[2])"), 8), "two growing");
  expect_refused(file(one(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])"), 0), "more bytes");
  expect_refused(file(one(R"("dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,0])"), 0), "dim of size");
  expect_refused(file(one(R"("dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0])"), 0), "more bytes");
  expect_refused(file(one(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8])"), 8), "more than 8");
  expect_refused(file(one(good + R"(,"extra":"x")"), 8), "unknown field");
  expect_refused(file(one(good + R"(,"dtype":"F32")"), 8), "twice");
  expect_refused(file(R"({"a":{)" + good + R"(},"a":{)" + good + "}}", 8), "twice");
  expect_refused(file(R"({"a":{)" + good + R"(},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12), "overlaps");
  expect_refused(file(R"({"a":{)" + good + R"(},"b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}})", 16),
                 "belong to nothing");
  expect_refused(file(R"({"__metadata__":{"k":3}})", 0), "number");
  expect_refused(file("{\"a\":" + std::string(100000, '['), 0), "list");
  expect_refused(file(R"({"a":{"dtype":{"x":1}}})", 0), "object");
  std::string bad = file(R"({"a":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}})", 1);
  bad.back() = 2;
  expect_refused(bad, "bool");
}

// Every truncation is refused; every flipped bit is refused or gives a file that is whole again.
TEST(Safetensors, SurvivesTruncationAndBitFlips) {
  const auto path = scratch("flip.safetensors");
  save_safetensors(path, {{"a", Tensor::of<float>({2, 2}, {1, 2, 3, 4})}, {"b", Tensor::of<std::int8_t>({3}, {1, 2, 3})}},
                   {{"k", "v"}});
  const std::string good = read_file(path);
  EXPECT_NO_THROW(parse(good));
  for (std::size_t n = 0; n < good.size(); ++n) EXPECT_THROW(parse(good.substr(0, n)), Error) << "truncated to " << n;
  for (std::size_t i = 0; i < good.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bytes = good;
      bytes[i] = static_cast<char>(bytes[i] ^ 1 << bit);
      try {
        for (const auto& [name, t] : parse(bytes).tensors)
          EXPECT_EQ(t.to_doubles().size(), static_cast<std::size_t>(t.elements()));
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::invalid) << error.what();
      }
    }
  }
}

TEST(Safetensors, RandomBytesAreRefused) {
  Rng rng(3);
  for (int round = 0; round < 300; ++round) {
    std::string header = "{";
    const std::string_view pieces[] = {
        "{", "}", "[", "]", ":", ",", "\"a\"", "\"dtype\"", "\"shape\"", "\"data_offsets\"", "0", "8", "\"F32\"", "null"};
    for (int k = 0; k < 30; ++k) header += pieces[rng.below(std::size(pieces))];
    try {
      parse(file(header, 8));
    } catch (const Error&) {
    }
  }
}

TEST(Safetensors, FailedSaveKeepsTheFormerFile) {
  const auto path = scratch("keep.safetensors");
  save_safetensors(path, {{"a", Tensor::scalar<float>(1)}});
  EXPECT_THROW(save_safetensors(path, {{"\xff", Tensor::scalar<float>(2)}}), Error);
  EXPECT_THROW(save_safetensors(path, {{"__metadata__", Tensor::scalar<float>(2)}}), Error);
  EXPECT_EQ(load_safetensors(path).tensors.at("a").at(0), 1);
  EXPECT_THROW(load_safetensors(scratch("there_is_no_such_file")), Error);
}

}  // namespace
}  // namespace rhetor
