// LAMB, layer-wise rates and schedules against their formulas.
#include "train/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/rng.h"
#include "train/schedule.h"

namespace rhetor {
namespace {

// A matrix of 3x4 and a bias of 4 with the gradients given as inputs.
struct Toy {
  Session session;
  explicit Toy(const OptimizerOptions& options) : session(make(options)) {
    Rng rng(1);
    for (const char* name : {"w", "b"})
      for (float& x : session.state(name).data<float>()) x = rng.uniform() - 0.5f;
    for (const char* name : {"gw", "gb"})
      for (float& x : session.input(name).data<float>()) x = 0.1f * (rng.uniform() - 0.5f);
  }
  static ExecutablePtr make(const OptimizerOptions& options) {
    Graph g;
    std::vector<Value> weights, grads;
    for (const auto& [name, shape] : {std::pair<std::string, Shape>{"w", Shape{3, 4}}, {"b", Shape{4}}}) {
      weights.push_back(g.input(name, {DType::f32, shape}, InputKind::state));
      grads.push_back(g.input("g" + name, {DType::f32, shape}));
    }
    add_update(g, options, 1, weights, {"w", "b"}, grads);
    return compile(g, {});
  }
  void step(int number) {
    session.input("lr").set(0, 0.01);
    session.input("step").set(0, number);
    session.run();
  }
};

TEST(Optimizer, LambFollowsItsFormula) {
  OptimizerOptions options{
      .kind = OptimizerOptions::Kind::lamb, .adamw = {.beta1 = 0.9, .beta2 = 0.99, .eps = 1e-6, .weight_decay = 0.1}, .clip = 0};
  Toy toy(options);
  for (const char* name : {"w", "b"}) {
    const bool matrix = name[0] == 'w';
    std::vector<double> p = toy.session.state(name).to_doubles(), g = toy.session.input("g" + std::string(name)).to_doubles(),
                        m(p.size()), v(p.size());
    Toy run(options);
    for (int t = 1; t <= 3; ++t) {
      run.step(t);
      std::vector<double> r(p.size());
      double p2 = 0, r2 = 0;
      for (std::size_t i = 0; i < p.size(); ++i) {
        m[i] = 0.9 * m[i] + 0.1 * g[i];
        v[i] = 0.99 * v[i] + 0.01 * g[i] * g[i];
        r[i] = m[i] / (1 - std::pow(0.9, t)) / (std::sqrt(v[i] / (1 - std::pow(0.99, t))) + 1e-6) + (matrix ? 0.1 * p[i] : 0);
        p2 += p[i] * p[i], r2 += r[i] * r[i];
      }
      const double trust = matrix ? std::sqrt(p2 / r2) : 1;
      for (std::size_t i = 0; i < p.size(); ++i) {
        p[i] -= 0.01 * trust * r[i];
        EXPECT_NEAR(run.session.state(name).at(static_cast<std::int64_t>(i)), p[i], 2e-6) << name << " step " << t;
      }
    }
  }
}

TEST(Optimizer, LayerDecayLowersTheRateTowardsTheBottom) {
  EXPECT_EQ(layer_depth("bert.embeddings.word_embeddings.weight", 4), 0);
  EXPECT_EQ(layer_depth("bert.encoder.layer.0.output.dense.bias", 4), 1);
  EXPECT_EQ(layer_depth("bert.encoder.layer.3.output.dense.bias", 4), 4);
  EXPECT_EQ(layer_depth("h.11.attn.c_attn.weight", 12), 12);
  EXPECT_EQ(layer_depth("model.layers.2.mlp.up_proj.weight", 12), 3);
  EXPECT_EQ(layer_depth("wte.weight", 12), 0);
  for (const char* head : {"classifier.weight", "bert.pooler.dense.bias", "ln_f.weight", "qa_outputs.bias"})
    EXPECT_EQ(layer_depth(head, 12), 13);
  // "w" counts as a head: its rate is the full one; with more layers above nothing changes.
  Toy plain({.clip = 0}), decayed({.clip = 0, .layer_decay = 0.5, .layers = 6});
  plain.step(1);
  decayed.step(1);
  EXPECT_EQ(plain.session.state("w").to_doubles(), decayed.session.state("w").to_doubles());
}

TEST(Optimizer, BadGradientsLeaveNoTrace) {
  Toy toy({.kind = OptimizerOptions::Kind::lamb});
  const auto before = toy.session.state("w").to_doubles();
  toy.session.input("gb").set(0, std::nan(""));
  toy.step(1);
  EXPECT_EQ(toy.session.output("applied").at(0), 0);
  EXPECT_EQ(toy.session.state("w").to_doubles(), before);
}

TEST(Schedule, EachFallsAsItSays) {
  Recipe r;
  r.lr = 1, r.warmup = 0.1, r.min_lr_ratio = 0.2;
  const auto at = [&](const char* schedule, std::int64_t step) {
    r.schedule = schedule;
    return learning_rate(r, step, 100);
  };
  for (const char* schedule : {"cosine", "linear", "polynomial", "constant"}) {
    EXPECT_NEAR(at(schedule, 1), 0.1, 1e-12);
    EXPECT_NEAR(at(schedule, 10), 1, 1e-12);
  }
  r.power = 2;
  EXPECT_NEAR(at("cosine", 55), 0.6, 1e-12);
  EXPECT_NEAR(at("linear", 55), 0.6, 1e-12);
  EXPECT_NEAR(at("polynomial", 55), 0.2 + 0.8 * 0.25, 1e-12);
  EXPECT_NEAR(at("constant", 100), 1, 1e-12);
  for (const char* schedule : {"cosine", "linear", "polynomial"}) EXPECT_NEAR(at(schedule, 100), 0.2, 1e-12);
}

}  // namespace
}  // namespace rhetor
