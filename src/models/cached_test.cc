// Prefill and decode with a cache against the full forward pass, position by position.
#include "models/test_models.h"

namespace rhetor::testing {
namespace {

using Task = BuildSpec::Task;

constexpr std::int64_t kTotal = 14, kPrefill = 8;

Tensor row(const Tensor& logits, std::int64_t b, std::int64_t s) {
  return logits.rows(b, b + 1).reshaped(Shape{logits.shape()[1], logits.shape()[2]}).rows(s, s + 1);
}

void set_ints(Tensor& to, const std::vector<std::int32_t>& values) {
  ASSERT_EQ(to.elements(), static_cast<std::int64_t>(values.size()));
  std::copy(values.begin(), values.end(), to.data<std::int32_t>().begin());
}

class Cached : public ::testing::TestWithParam<const char*> {};

TEST_P(Cached, EqualsFullForwardForEveryPosition) {
  const ModelConfig c = tiny(GetParam());
  const Graph full = build_model(c, {.task = Task::logits, .batch = 2, .seq = kTotal});
  const Weights weights = lively_weights(full);
  const Tensor tokens = random_ids(Shape{2, kTotal}, c.vocab, 8);
  std::map<std::string, Tensor> all(weights.begin(), weights.end());
  all["tokens"] = tokens;
  const Tensor oracle = evaluate(full, all).outputs.at("logits");
  const double tolerance =
      derived_tolerance(evaluate(full, all, RefPrecision::declared).outputs.at("logits"), oracle, DType::f32);

  const auto states = std::make_shared<StateStore>();
  Session prefill(compile(build_model(c, {.task = Task::cached, .batch = 2, .seq = kPrefill}), weights), states);
  Session decode(compile(build_model(c, {.task = Task::cached, .batch = 2, .seq = 1}), weights), states);
  const auto id = [&](std::int64_t b, std::int64_t s) { return tokens.data<std::int32_t>()[static_cast<std::size_t>(b * kTotal + s)]; };
  const auto expect_row = [&](const Tensor& logits, std::int64_t b, std::int64_t s) {
    const Comparison difference = compare(logits.rows(b, b + 1), row(oracle, b, s));
    EXPECT_TRUE(difference.within(tolerance)) << "sequence " << b << " position " << s << ": " << difference.str();
  };

  // Two prompts of different length in one prefill; the rest is padding.
  std::vector<std::int64_t> seen = {6, 3};
  std::vector<std::int32_t> padded(2 * kPrefill, 7);
  for (std::int64_t b = 0; b < 2; ++b)
    for (std::int64_t s = 0; s < seen[static_cast<std::size_t>(b)]; ++s) padded[static_cast<std::size_t>(b * kPrefill + s)] = id(b, s);
  set_ints(prefill.input("tokens"), padded);
  set_ints(prefill.input("positions"), {0, 0});
  set_ints(prefill.input("last"), {5, 2});
  prefill.run();
  for (std::int64_t b = 0; b < 2; ++b) expect_row(prefill.output("logits"), b, seen[static_cast<std::size_t>(b)] - 1);

  while (seen[0] < kTotal && seen[1] < kTotal) {
    set_ints(decode.input("tokens"), {id(0, seen[0]), id(1, seen[1])});
    set_ints(decode.input("positions"), {static_cast<std::int32_t>(seen[0]), static_cast<std::int32_t>(seen[1])});
    set_ints(decode.input("last"), {0, 0});
    decode.run();
    for (std::int64_t b = 0; b < 2; ++b) expect_row(decode.output("logits"), b, seen[static_cast<std::size_t>(b)]++);
  }
  // A second prefill continues where sequence 1 stands (chunked prompts), near the end of the cache.
  std::vector<std::int32_t> rest(2 * kPrefill, 0);
  const std::int64_t from = kTotal - 3;
  for (std::int64_t s = from; s < kTotal; ++s) rest[static_cast<std::size_t>(kPrefill + s - from)] = id(1, s);
  set_ints(prefill.input("tokens"), rest);
  set_ints(prefill.input("positions"), {0, static_cast<std::int32_t>(from)});
  set_ints(prefill.input("last"), {0, 2});
  prefill.run();
  expect_row(prefill.output("logits"), 1, kTotal - 1);
}

INSTANTIATE_TEST_SUITE_P(Families, Cached, ::testing::Values("gpt2", "llama"), [](const auto& i) { return std::string(i.param); });

TEST(CachedGraph, WritesItsStatesInPlace) {
  const ModelConfig c = tiny("gpt2");
  const Graph g = build_model(c, {.task = Task::cached, .batch = 1, .seq = 1});
  const ExecutablePtr e = compile(g, init_weights(g, 1));
  EXPECT_EQ(e->states().size(), 4u);
  EXPECT_TRUE(state_copies(e->graph(), e->memory()).empty());
}

}  // namespace
}  // namespace rhetor::testing
