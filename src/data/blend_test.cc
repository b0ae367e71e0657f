#include "data/blend.h"

#include <gtest/gtest.h>

#include <cmath>
#include <thread>

#include "base/rng.h"

namespace rhetor {
namespace {

TEST(Blend, ProportionsHoldWithinOneSampleAtAnyTime) {
  Rng rng(3);
  for (int trial = 0; trial < 20; ++trial) {
    std::vector<double> weights(1 + rng.below(9));
    double sum = 0;
    for (double& w : weights) sum += w = trial % 3 == 0 ? std::pow(10.0, -4.0 * rng.uniform()) : 0.05 + rng.uniform();
    const Blend blend(weights);
    std::vector<std::uint64_t> given(weights.size());
    for (std::uint64_t i = 0; i < 2000; ++i) {
      const Blend::Pick pick = blend.at(i);
      const auto s = static_cast<std::size_t>(pick.source);
      ASSERT_EQ(pick.index, given[s]) << "samples of a source come in order, none is left out";
      ++given[s];
      for (std::size_t k = 0; k < weights.size(); ++k)
        ASSERT_LT(std::abs(static_cast<double>(given[k]) - weights[k] / sum * static_cast<double>(i + 1)), 1.0)
            << "source " << k << " of " << weights.size() << " after " << i + 1;
    }
  }
}

TEST(Blend, AnyIndexCanBeAskedFirst) {
  const std::vector<double> weights = {0.62, 0.3, 0.08};
  const Blend forward(weights);
  for (const std::uint64_t i : {0u, 1u, 255u, 256u, 5432u, 7u}) {
    const Blend::Pick a = Blend(weights).at(i), b = forward.at(i);
    EXPECT_EQ(a.source, b.source);
    EXPECT_EQ(a.index, b.index);
  }
}

TEST(Blend, ThreadsSeeTheSame) {
  const Blend shared({3, 2, 1}), alone({3, 2, 1});
  std::vector<int> expected;
  for (std::uint64_t i = 0; i < 5000; ++i) expected.push_back(alone.at(i).source);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (std::uint64_t i = static_cast<std::uint64_t>(t); i < 5000; i += 97)
        wrong[static_cast<std::size_t>(t)] += shared.at(4999 - i).source != expected[4999 - i];
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST(Blend, OneSourceAndExtremeWeights) {
  EXPECT_EQ(Blend({0.25}).at(12345).index, 12345u);
  const Blend blend({1e9, 1e-9});
  for (std::uint64_t i = 0; i < 500; ++i) EXPECT_EQ(blend.at(i).source, 0);
  EXPECT_NEAR(blend.share(0) + blend.share(1), 1.0, 1e-12);
}

}  // namespace
}  // namespace rhetor
