#include "cpu/pack_cache.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace rhetor {
namespace {

Tensor numbers(float first) {
  Tensor t(DType::f32, Shape{256});
  for (std::size_t i = 0; i < 256; ++i) t.data<float>()[i] = first + static_cast<float>(i);
  return t;
}

std::shared_ptr<void> pack(const Tensor& t, const std::string& form, int* packed = nullptr) {
  return shared_pack(content_of(t), form, t.bytes(), [&](void* to) {
    std::memcpy(to, t.raw(), t.bytes());
    if (packed) ++*packed;
  });
}

TEST(PackCache, EqualContentAndFormIsOneBlock) {
  const PackCacheUse before = pack_cache_use();
  int packed = 0;
  const Tensor a = numbers(1), b = numbers(1);  // two memories
  const auto x = pack(a, "rows", &packed), y = pack(b, "rows", &packed);
  EXPECT_EQ(x, y);
  EXPECT_EQ(packed, 1);
  EXPECT_NE(pack(a, "columns", &packed), x);
  EXPECT_NE(pack(numbers(2), "rows", &packed), x);
  EXPECT_EQ(packed, 3);
  EXPECT_EQ(pack_cache_use().bytes - before.bytes, a.bytes());  // the other two are gone already
}

TEST(PackCache, MemoryWrittenAnewIsNotMistakenForTheOld) {
  Tensor t = numbers(1);
  const auto old = pack(t, "rows");
  t.data<float>()[3] = -1;  // same address, same type
  const auto fresh = pack(t, "rows");
  EXPECT_NE(old, fresh);
  EXPECT_EQ(static_cast<const float*>(old.get())[3], 4);
  EXPECT_EQ(static_cast<const float*>(fresh.get())[3], -1);
}

TEST(PackCache, OwnsNothing) {
  const PackCacheUse before = pack_cache_use();
  int packed = 0;
  const Tensor t = numbers(5);
  for (int i = 0; i < 3; ++i) pack(t, "rows", &packed);
  EXPECT_EQ(packed, 3);
  // Many short-lived blocks leave no more behind than the living ones.
  for (int i = 0; i < 1000; ++i) pack(numbers(static_cast<float>(i)), "rows");
  EXPECT_EQ(pack_cache_use().blocks, before.blocks);
}

TEST(PackCache, AFailedPackingLeavesNothing) {
  const Tensor t = numbers(6);
  EXPECT_THROW(shared_pack(content_of(t), "rows", 64, [](void*) { fail("no"); }), Error);
  int packed = 0;
  EXPECT_NE(pack(t, "rows", &packed), nullptr);
  EXPECT_EQ(packed, 1);
}

TEST(PackCache, ConcurrentCallersPackOnce) {
  std::vector<Tensor> tensors;
  for (int i = 0; i < 8; ++i) tensors.push_back(numbers(100.0f + static_cast<float>(i)));
  std::vector<std::shared_ptr<void>> blocks(4 * tensors.size());
  std::atomic<int> packed = 0;
  std::vector<std::thread> threads;
  for (std::size_t w = 0; w < 4; ++w)
    threads.emplace_back([&, w] {
      for (std::size_t i = 0; i < tensors.size(); ++i) {
        const std::size_t k = w % 2 ? i : tensors.size() - 1 - i;
        blocks[w * tensors.size() + k] = shared_pack(content_of(tensors[k]), "rows", tensors[k].bytes(), [&](void* to) {
          std::memcpy(to, tensors[k].raw(), tensors[k].bytes());
          ++packed;
        });
      }
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(packed, 8);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    EXPECT_EQ(blocks[i], blocks[i % tensors.size()]);
    EXPECT_EQ(std::memcmp(blocks[i].get(), tensors[i % tensors.size()].raw(), tensors[0].bytes()), 0);
  }
}

TEST(PackCache, ConstantsAreSharedWithTheirOwnTypes) {
  const Tensor a = numbers(7), b = numbers(7).reshaped(Shape{16, 16});
  const Tensor x = shared_constant(a), y = shared_constant(b);
  EXPECT_EQ(x.raw(), y.raw());
  EXPECT_EQ(x.type(), a.type());
  EXPECT_EQ(y.type(), b.type());
}

}  // namespace
}  // namespace rhetor
