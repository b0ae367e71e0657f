// Whole models, compiled, against the float64 interpreter.
#include "models/test_models.h"

namespace rhetor::testing {
namespace {

using Task = BuildSpec::Task;

std::map<std::string, Tensor> language_inputs(const ModelConfig& c, std::int64_t batch, std::int64_t seq, bool targets) {
  std::map<std::string, Tensor> inputs{{"tokens", random_ids(Shape{batch, seq}, c.vocab, 3)}};
  if (!targets) return inputs;
  Tensor t = random_ids(Shape{batch, seq}, c.vocab, 4);
  t.data<std::int32_t>()[1] = -100;  // ignored
  inputs["targets"] = t;
  return inputs;
}

std::map<std::string, Tensor> bert_inputs(const ModelConfig& c, std::int64_t batch, std::int64_t seq) {
  std::vector<std::int32_t> lengths;
  for (std::int64_t b = 0; b < batch; ++b) lengths.push_back(static_cast<std::int32_t>(seq - 3 * b));
  return {{"tokens", random_ids(Shape{batch, seq}, c.vocab, 5)},
          {"segments", random_ids(Shape{batch, seq}, 2, 6)},
          {"lengths", Tensor::of<std::int32_t>(Shape{batch}, lengths)}};
}

TEST(Forward, LanguageModelsMatchTheOracle) {
  for (const char* family : {"gpt2", "llama"}) {
    SCOPED_TRACE(family);
    const ModelConfig c = tiny(family);
    for (const bool loss : {false, true}) {
      const Graph g = build_model(c, {.task = loss ? Task::loss : Task::logits, .batch = 2, .seq = 11});
      expect_matches_oracle(g, lively_weights(g), language_inputs(c, 2, 11, loss));
    }
  }
}

TEST(Forward, TiedAndUntiedHeads) {
  for (const char* family : {"gpt2", "llama"}) {
    ModelConfig c = tiny(family);
    c.tied_embeddings = !c.tied_embeddings;
    const Graph g = build_model(c, {.task = Task::logits, .batch = 1, .seq = 5});
    EXPECT_EQ(g.find_input("lm_head.weight").valid(), !c.tied_embeddings);
    expect_matches_oracle(g, lively_weights(g), language_inputs(c, 1, 5, false));
  }
}

TEST(Forward, BertHeadsMatchTheOracle) {
  const ModelConfig c = tiny("bert");
  for (const Task task : {Task::hidden, Task::pretrain, Task::classify, Task::span}) {
    SCOPED_TRACE(static_cast<int>(task));
    const Graph g = build_model(c, {.task = task, .batch = 2, .seq = 12});
    auto inputs = bert_inputs(c, 2, 12);
    if (task == Task::pretrain) {
      Tensor targets = random_ids(Shape{2, 12}, c.vocab, 7);
      for (std::size_t i = 0; i < 20; ++i) targets.data<std::int32_t>()[i] = -100;
      inputs["targets"] = targets;
      inputs["next_sentence"] = Tensor::of<std::int32_t>(Shape{2}, {0, 1});
    }
    expect_matches_oracle(g, lively_weights(g), inputs);
  }
}

TEST(Forward, BertTrainingHeadsHaveLosses) {
  ModelConfig c = tiny("bert");
  c.dropout = 0.1;
  const Graph classify = build_model(c, {.task = Task::classify, .batch = 2, .seq = 12, .training = true});
  auto inputs = bert_inputs(c, 2, 12);
  inputs["seed"] = Tensor::scalar<std::int64_t>(5);
  inputs["labels"] = Tensor::of<std::int32_t>(Shape{2}, {2, 0});
  expect_matches_oracle(classify, lively_weights(classify), inputs);
  inputs.erase("labels");
  inputs["start"] = Tensor::of<std::int32_t>(Shape{2}, {2, 0});
  inputs["end"] = Tensor::of<std::int32_t>(Shape{2}, {4, 3});
  const Graph span = build_model(c, {.task = Task::span, .batch = 2, .seq = 12, .training = true});
  expect_matches_oracle(span, lively_weights(span), inputs);
}

TEST(Forward, EachPassOffGivesEqualResults) {
  const ModelConfig c = tiny("llama");
  const Graph g = build_model(c, {.task = Task::logits, .batch = 2, .seq = 9});
  const Weights weights = lively_weights(g);
  for (const Pass& pass : all_passes()) {
    SCOPED_TRACE(std::string(pass.name));
    CompileOptions options;
    options.passes.off = {std::string(pass.name)};
    options.passes.verify = true;
    expect_matches_oracle(g, weights, language_inputs(c, 2, 9, false), options);
  }
  CompileOptions none;
  none.in_place = false;
  for (const Pass& pass : all_passes()) none.passes.off.emplace(pass.name);
  expect_matches_oracle(g, weights, language_inputs(c, 2, 9, false), none);
}

TEST(Forward, NothingOfAModelRunsTheReference) {
  for (const char* family : {"gpt2", "llama", "bert"}) {
    const ModelConfig c = tiny(family);
    const Task task = c.family == "bert" ? Task::hidden : Task::cached;
    const Graph g = build_model(c, {.task = task, .batch = 2, .seq = 4});
    const ExecutablePtr exe = compile(g, init_weights(g, 1));
    for (const auto& choice : exe->report().choices)
      EXPECT_NE(choice.kernel, "reference") << family << " node " << choice.node;
  }
}

TEST(Forward, Int8IsCloseAndBf16IsCloser) {
  const ModelConfig c = tiny("gpt2");
  const Graph g = build_model(c, {.task = Task::loss, .batch = 2, .seq = 16});
  const Weights weights = lively_weights(g);
  const auto inputs = language_inputs(c, 2, 16, true);
  const auto loss = [&](const CompileOptions& options) {
    Session session(compile(g, weights, options));
    for (const auto& [name, value] : inputs) fill(session.input(name), value);
    session.run();
    return session.output("loss").at(0);
  };
  CompileOptions int8, bf16;
  int8.passes.int8 = true;
  bf16.passes.compute = DType::bf16;
  const double exact = loss({});
  EXPECT_NEAR(loss(int8), exact, 0.05);
  EXPECT_NEAR(loss(bf16), exact, 0.05);
  EXPECT_NE(loss(int8), exact);
}

}  // namespace
}  // namespace rhetor::testing
