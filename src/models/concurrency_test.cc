// One executable, several threads, each with its own session: identical results, bit for bit.
#include <thread>

#include "models/test_models.h"

namespace rhetor::testing {
namespace {

TEST(Concurrency, SessionsOfOneExecutableDoNotDisturbEachOther) {
  const ModelConfig c = tiny("llama");
  const Graph g = build_model(c, {.task = BuildSpec::Task::cached, .batch = 1, .seq = 1});
  const ExecutablePtr executable = compile(g, lively_weights(g));
  constexpr int kThreads = 4, kSteps = 16;
  const auto generate = [&](std::vector<float>& logits) {
    Session session(executable);
    for (int step = 0; step < kSteps; ++step) {
      session.input("tokens").set(0, (7 * step + 3) % 61);
      session.input("positions").set(0, step);
      session.run();
      for (const float x : session.output("logits").data<float>()) logits.push_back(x);
    }
  };
  std::vector<float> alone;
  generate(alone);
  std::vector<std::vector<float>> together(kThreads);
  for (int round = 0; round < 3; ++round) {
    for (auto& logits : together) logits.clear();
    std::vector<std::thread> threads;
    for (auto& logits : together) threads.emplace_back([&generate, &logits] { generate(logits); });
    for (std::thread& thread : threads) thread.join();
    for (const auto& logits : together) EXPECT_EQ(logits, alone);
  }
}

}  // namespace
}  // namespace rhetor::testing
