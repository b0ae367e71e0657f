#include "cpu/huge_block.h"

#include <gtest/gtest.h>

#include <cstring>
#include <thread>
#include <vector>

namespace rhetor {
namespace {

TEST(HugeBlock, BlocksAreAlignedApartAndOutliveEachOther) {
  std::vector<std::shared_ptr<void>> blocks;
  const std::vector<std::uint64_t> sizes = {1, 64, 1000, 70000, 1 << 20, (1 << 20) + 8, 20 << 20, 14 << 20, 14 << 20, 14 << 20, 3 << 20};
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    blocks.push_back(huge_block(sizes[i]));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(blocks[i].get()) % 64, 0u);
    std::memset(blocks[i].get(), static_cast<int>(i + 1), sizes[i]);
  }
  for (std::size_t i = 0; i < sizes.size(); i += 2) blocks[i].reset();
  for (std::size_t i = 1; i < sizes.size(); i += 2) {
    const auto* bytes = static_cast<const unsigned char*>(blocks[i].get());
    EXPECT_EQ(bytes[0], i + 1);
    EXPECT_EQ(bytes[sizes[i] - 1], i + 1);
  }
}

TEST(HugeBlock, AWatcherSeesItsBlockGo) {
  const std::shared_ptr<void> neighbour = huge_block(1 << 20);
  std::shared_ptr<void> block = huge_block(1 << 20);
  const std::weak_ptr<void> watcher = block;
  EXPECT_FALSE(watcher.expired());
  block.reset();
  EXPECT_TRUE(watcher.expired());
}

TEST(HugeBlock, ThreadsGetDifferentMemory) {
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([t, &wrong] {
      std::vector<std::shared_ptr<void>> mine;
      for (int i = 0; i < 50; ++i) {
        mine.push_back(huge_block(100000));
        std::memset(mine.back().get(), t * 50 + i, 100000);
      }
      for (int i = 0; i < 50; ++i) wrong[static_cast<std::size_t>(t)] += static_cast<const unsigned char*>(mine[static_cast<std::size_t>(i)].get())[99999] != t * 50 + i;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

}  // namespace
}  // namespace rhetor
