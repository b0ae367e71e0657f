// Fine-tuning heads: against the float64 interpreter, what counts and what is ignored, and that a step lowers the loss.
#include <cmath>
#include <limits>

#include "base/error.h"
#include "models/test_models.h"

namespace rhetor::testing {
namespace {

using Task = BuildSpec::Task;
constexpr float kNone = std::numeric_limits<float>::quiet_NaN();

// Four rows of 9 tokens; a group of 2 makes them two examples.
BuildSpec spec_of(Task task) {
  BuildSpec spec{.task = task, .batch = 4, .seq = 9, .with_loss = true};
  if (task == Task::choice || task == Task::rank || task == Task::embed) spec.group = 2;
  spec.losses.temperature = 0.5;
  return spec;
}

ModelConfig config_of(const std::string& family, Task task) {
  ModelConfig c = tiny(family);
  c.labels = task == Task::classify || task == Task::tag ? 3 : 1;
  return c;
}

std::map<std::string, Tensor> inputs_of(const ModelConfig& c, const BuildSpec& spec) {
  std::map<std::string, Tensor> in{{"tokens", random_ids(Shape{4, 9}, c.vocab, 5)},
                                   {"lengths", Tensor::of<std::int32_t>(Shape{4}, {9, 6, 1, 8})}};
  if (c.family == "bert") in["segments"] = random_ids(Shape{4, 9}, 2, 6);
  switch (spec.task) {
    case Task::classify:
      in["labels"] = Tensor::of<std::int32_t>(Shape{4}, {2, 0, -100, 1});
      break;
    case Task::regress:
      in["values"] = Tensor::of<float>(Shape{4, 1}, {1.5f, -2, kNone, 0.25f});
      break;
    case Task::span:
      in["start"] = Tensor::of<std::int32_t>(Shape{4}, {2, 0, -100, 7});
      in["end"] = Tensor::of<std::int32_t>(Shape{4}, {4, 5, -100, 7});
      break;
    case Task::tag: {
      Tensor labels = random_ids(Shape{4, 9}, 3, 8);
      for (std::size_t i = 0; i < 20; ++i) labels.data<std::int32_t>()[i] = -100;
      in["labels"] = labels;
      break;
    }
    case Task::choice:
      in["labels"] = Tensor::of<std::int32_t>(Shape{2}, {1, 0});
      in["counts"] = Tensor::of<std::int32_t>(Shape{2}, {2, 1});
      break;
    case Task::rank:
      in["values"] = Tensor::of<float>(Shape{2, 2}, {1, 0, 0.5f, kNone});
      break;
    default:
      if (spec.losses.embedding == LossOptions::Embedding::cosine)
        in["values"] = Tensor::of<float>(Shape{2}, {-0.5f, kNone});
      else
        in["labels"] = Tensor::of<std::int32_t>(Shape{2}, {0, 0});
  }
  return in;
}

std::vector<BuildSpec> variants() {
  std::vector<BuildSpec> out;
  for (const TaskKind& kind : task_kinds()) out.push_back(spec_of(kind.task));
  for (const Task task : {Task::classify, Task::tag}) {
    out.push_back(spec_of(task));
    out.back().losses.label_smoothing = 0.1;
    out.push_back(out.back());
    out.back().losses.class_weights = {1, 0.5, 2};
  }
  for (const auto ranking : {LossOptions::Ranking::pointwise, LossOptions::Ranking::pairwise}) {
    out.push_back(spec_of(Task::rank));
    out.back().losses.ranking = ranking;
  }
  out.push_back(spec_of(Task::embed));
  out.back().losses.embedding = LossOptions::Embedding::cosine;
  return out;
}

double loss_of(const Graph& g, const Weights& weights, const std::map<std::string, Tensor>& inputs) {
  Session session(compile(g, weights));
  for (const auto& [name, value] : inputs) fill(session.input(name), value);
  session.run();
  return session.output("loss").at(0);
}

TEST(Heads, MatchTheOracleInEveryFamily) {
  for (const char* family : {"bert", "gpt2", "llama"}) {
    for (const BuildSpec& spec : variants()) {
      SCOPED_TRACE(fmt::format("{} task {}", family, static_cast<int>(spec.task)));
      const ModelConfig c = config_of(family, spec.task);
      const Graph g = build_model(c, spec);
      // A loss is a single number, for which the naive evaluation may err by luck less than its kind: twice the usual factor.
      expect_matches_oracle(g, lively_weights(g), inputs_of(c, spec), {}, 6.0);
    }
  }
}

TEST(Heads, NothingRunsTheReference) {
  for (const BuildSpec& spec : variants()) {
    const ModelConfig c = config_of("bert", spec.task);
    const Graph g = build_model(c, spec);
    const ExecutablePtr executable = compile(g, init_weights(g, 1));
    for (const auto& choice : executable->report().choices) EXPECT_NE(choice.kernel, "reference");
  }
}

TEST(Heads, WithoutLossThereAreNoTargets) {
  for (const TaskKind& kind : task_kinds()) {
    const Graph g = build_model(config_of("bert", kind.task), {.task = kind.task, .batch = 4, .seq = 9});
    EXPECT_FALSE(g.find_output("loss").valid());
    for (const char* name : {"labels", "values", "start", "end", "counts"}) EXPECT_FALSE(g.find_input(name).valid());
  }
}

TEST(Heads, SmoothingAndClassWeightsFollowTheirFormula) {
  const ModelConfig c = config_of("bert", Task::classify);
  BuildSpec spec = spec_of(Task::classify);
  spec.losses.label_smoothing = 0.2;
  spec.losses.class_weights = {1, 0.5, 2};
  const Graph g = build_model(c, spec);
  const Weights weights = lively_weights(g);
  const auto inputs = inputs_of(c, spec);
  Session session(compile(g, weights));
  for (const auto& [name, value] : inputs) fill(session.input(name), value);
  session.run();
  const Tensor& x = session.output("logits");
  double loss = 0, total = 0;
  for (int row = 0; row < 4; ++row) {
    const int target = inputs.at("labels").data<std::int32_t>()[static_cast<std::size_t>(row)];
    if (target < 0) continue;
    double sum = 0;
    for (int k = 0; k < 3; ++k) sum += std::exp(x.at(row * 3 + k));
    for (int k = 0; k < 3; ++k) {
      const double share = (k == target ? 0.8 : 0.0) + 0.2 / 3;
      loss += share * spec.losses.class_weights[static_cast<std::size_t>(k)] * (std::log(sum) - x.at(row * 3 + k));
    }
    total += spec.losses.class_weights[static_cast<std::size_t>(target)];
  }
  EXPECT_NEAR(session.output("loss").at(0), loss / total, 1e-5);
}

// What is marked as not counted, and padding, changes no loss.
TEST(Heads, IgnoredRowsAndPaddingChangeNothing) {
  for (const BuildSpec& spec : variants()) {
    SCOPED_TRACE(static_cast<int>(spec.task));
    const ModelConfig c = config_of("bert", spec.task);
    const Graph g = build_model(c, spec);
    const Weights weights = lively_weights(g);
    auto inputs = inputs_of(c, spec);
    if (inputs.contains("labels") && spec.task == Task::embed) inputs["labels"] = Tensor::of<std::int32_t>(Shape{2}, {0, -100});
    const double before = loss_of(g, weights, inputs);
    auto tokens = inputs["tokens"].clone();
    const auto change = [&](std::size_t row, std::size_t from) {
      for (std::size_t s = from; s < 9; ++s) tokens.data<std::int32_t>()[row * 9 + s] = 3;
    };
    change(1, 6);  // padding
    if (spec.task == Task::embed) {
      change(3, 0);  // the second row of an example that does not count
      if (spec.losses.embedding == LossOptions::Embedding::contrastive) change(2, 0);
    } else if (spec.task == Task::choice || spec.task == Task::rank) {
      change(3, 0);  // a choice that is not there, a document that is not there
    } else if (spec.task != Task::tag) {
      change(2, 0);
    }
    inputs["tokens"] = tokens;
    EXPECT_NEAR(loss_of(g, weights, inputs), before, 1e-6);
  }
}

TEST(Heads, StepsLowerTheLoss) {
  for (const char* family : {"bert", "llama"}) {
    for (BuildSpec spec : variants()) {
      SCOPED_TRACE(fmt::format("{} task {}", family, static_cast<int>(spec.task)));
      const ModelConfig c = config_of(family, spec.task);
      spec.weights = InputKind::state;
      Graph g = build_model(c, spec);
      std::vector<Value> weights;
      for (const std::int32_t i : g.input_nodes())
        if (g.input_kind(i) == InputKind::state) weights.push_back(g.value({i, 0}));
      const std::vector<Value> grads = gradients(g.value(g.find_output("loss")), weights);
      const Value rate = scalar(g, DType::f32, 0.02), one = scalar(g, DType::f32, 1.0);
      for (std::size_t i = 0; i < weights.size(); ++i) g.set_update(weights[i], sgd(weights[i], grads[i], rate, one));
      Session session(compile(g, {}));
      BuildSpec first = spec;
      first.weights = InputKind::param;
      for (const auto& [name, value] : lively_weights(build_model(c, first))) fill(session.state(name), value);
      for (const auto& [name, value] : inputs_of(c, spec)) fill(session.input(name), value);
      session.run();
      const double before = session.output("loss").at(0);
      for (int i = 0; i < 12; ++i) session.run();
      EXPECT_LT(session.output("loss").at(0), before);
    }
  }
}

TEST(Heads, EmbeddingsHaveLengthOneAndAMean) {
  const ModelConfig c = config_of("gpt2", Task::embed);
  const Graph hidden = build_model(c, {.task = Task::hidden, .batch = 1, .seq = 4});
  const Graph embed = build_model(c, {.task = Task::embed, .batch = 1, .seq = 4});
  const Weights weights = lively_weights(hidden);
  const Tensor tokens = random_ids(Shape{1, 4}, c.vocab, 2);
  Session a(compile(hidden, weights)), b(compile(embed, weights));
  fill(a.input("tokens"), tokens);
  fill(b.input("tokens"), tokens);
  b.input("lengths").set(0, 3);
  a.run();
  b.run();
  std::vector<double> mean(32);
  double length = 0, cosine = 0;
  for (std::size_t k = 0; k < 32; ++k) {
    for (std::size_t s = 0; s < 3; ++s) mean[k] += a.output("hidden").at(static_cast<std::int64_t>(s * 32 + k));
    length += mean[k] * mean[k];
  }
  double own = 0;
  for (std::size_t k = 0; k < 32; ++k) {
    const double x = b.output("embedding").at(static_cast<std::int64_t>(k));
    cosine += x * mean[k] / std::sqrt(length);
    own += x * x;
  }
  EXPECT_NEAR(own, 1, 1e-5);
  EXPECT_NEAR(cosine, 1, 1e-5);
}

TEST(Heads, TaskModelsRoundTripThroughTheirConfiguration) {
  ModelConfig c = config_of("bert", Task::classify);
  c.task = "classification";
  c.label_names = {"bad", "good", "\"so\\so\""};
  const ModelConfig back = ModelConfig::from_json(c.to_json(), "test");
  EXPECT_EQ(back.task, c.task);
  EXPECT_EQ(back.label_names, c.label_names);
  EXPECT_EQ(c.label_name(1), "good");
  EXPECT_TRUE(expected_weights(c).at("classifier.weight").required);
  c.task = "span";
  EXPECT_TRUE(expected_weights(c).at("qa_outputs.weight").required);
  EXPECT_FALSE(expected_weights(c).at("bert.pooler.dense.weight").required);
  c.task = "clasification";
  EXPECT_THROW(c.validate(), Error);
  c.task = "ranking";  // scores with one label
  EXPECT_THROW(c.validate(), Error);
  c.task = "tagging", c.label_names.pop_back();
  EXPECT_THROW(c.validate(), Error);
}

}  // namespace
}  // namespace rhetor::testing
