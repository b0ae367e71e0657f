// The training graph of a model: gradients and optimiser, compiled and run.
#include "models/test_models.h"

namespace rhetor::testing {
namespace {

using Task = BuildSpec::Task;

void start(Session& session, const Graph& graph, std::uint64_t seed) {
  for (const auto& [name, value] : init_weights(graph, seed)) fill(session.state(name), value);
}

double step(Session& session, int number) {
  session.input("lr").set(0, 3e-3);
  session.input("step").set(0, number);
  session.input("seed").set(0, number);
  session.run();
  return session.output("loss").at(0);
}

TEST(Training, LossFallsOnAToyBatch) {
  for (const char* family : {"gpt2", "llama"}) {
    SCOPED_TRACE(family);
    ModelConfig c = tiny(family);
    c.dropout = 0.05;
    const Graph g = training_graph(c, 2, 8);
    Session session(compile(g, {}));
    start(session, g, 1);
    fill(session.input("tokens"), random_ids(Shape{2, 8}, c.vocab, 1));
    fill(session.input("targets"), random_ids(Shape{2, 8}, c.vocab, 2));
    const double first = step(session, 1);
    EXPECT_NEAR(first, std::log(61.0), 0.5);
    double last = first;
    for (int i = 2; i <= 60; ++i) last = step(session, i);
    EXPECT_LT(last, 0.35 * first);
  }
}

// With all passes, with each one switched off, and without any.
TEST(Training, OneStepMatchesTheOracle) {
  const ModelConfig c = tiny("llama");
  const Graph g = training_graph(c, 2, 5);
  const Weights weights = lively_weights(build_model(c, {.task = Task::loss, .batch = 2, .seq = 5}));
  std::map<std::string, Tensor> all;
  for (const std::int32_t i : g.input_nodes()) {
    const auto found = weights.find(g.input_name(i));
    all[g.input_name(i)] = found != weights.end() ? found->second : Tensor(g.node(i).outputs[0]);
  }
  all["tokens"] = random_ids(Shape{2, 5}, c.vocab, 1);
  all["targets"] = random_ids(Shape{2, 5}, c.vocab, 2);
  all["seed"] = Tensor::scalar<std::int64_t>(1);
  all["lr"] = Tensor::scalar<float>(1e-3f);
  all["step"] = Tensor::scalar<float>(1.0f);
  const EvalResult oracle = evaluate(g, all), naive = evaluate(g, all, RefPrecision::declared);

  std::vector<CompileOptions> variants(1);
  for (const Pass& pass : all_passes()) variants.emplace_back().passes.off = {std::string(pass.name)};
  variants.emplace_back().in_place = false;
  for (const Pass& pass : all_passes()) variants.back().passes.off.emplace(pass.name);
  for (const CompileOptions& options : variants) {
    SCOPED_TRACE(options.passes.off.empty() ? "all passes" : "without " + *options.passes.off.begin());
    Session session(compile(g, {}, options));
    for (const auto& [name, type] : session.executable().states()) fill(session.state(name), all.at(name));
    for (const auto& [name, type] : session.executable().inputs()) fill(session.input(name), all.at(name));
    session.run();
    for (const auto& [name, expected] : oracle.states) {
      if (!name.starts_with("m.")) continue;  // (1 - beta1) times the gradient; p itself depends on its sign where it is tiny
      const double tolerance = derived_tolerance(naive.states.at(name), expected, DType::f32);
      const Comparison difference = compare(session.state(name), expected);
      EXPECT_TRUE(difference.within(tolerance)) << name << ": " << difference.str() << ", tolerance " << tolerance;
    }
  }
}

TEST(Training, TheSameSeedGivesTheSameBits) {
  const ModelConfig c = tiny("gpt2");
  const Graph g = training_graph(c, 2, 8);
  const ExecutablePtr e = compile(g, {});
  std::vector<double> losses[2];
  for (auto& curve : losses) {
    Session session(e);
    start(session, g, 4);
    fill(session.input("tokens"), random_ids(Shape{2, 8}, c.vocab, 1));
    fill(session.input("targets"), random_ids(Shape{2, 8}, c.vocab, 2));
    for (int i = 1; i <= 5; ++i) curve.push_back(step(session, i));
  }
  EXPECT_EQ(losses[0], losses[1]);
}

TEST(Training, MemoryBudgetLeavesTheLossAlone) {
  const ModelConfig c = tiny("gpt2");
  const Graph g = training_graph(c, 2, 16);
  double losses[2];
  for (int i = 0; i < 2; ++i) {
    CompileOptions options;
    options.passes.memory_budget = i ? 40'000 : 0;
    Session session(compile(g, {}, options));
    start(session, g, 4);
    fill(session.input("tokens"), random_ids(Shape{2, 16}, c.vocab, 1));
    fill(session.input("targets"), random_ids(Shape{2, 16}, c.vocab, 2));
    for (int s = 1; s <= 3; ++s) losses[i] = step(session, s);
  }
  EXPECT_NEAR(losses[0], losses[1], 1e-4);
}

}  // namespace
}  // namespace rhetor::testing
