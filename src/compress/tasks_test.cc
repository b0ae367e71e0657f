// compress -> save -> load -> compile, for every family and every task it has: one file serves them all, near the float model.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>

#include "base/rng.h"
#include "compress/compress.h"
#include "models/test_models.h"

namespace rhetor {
namespace {

namespace fs = std::filesystem;
using testing::lively_weights;
using testing::tiny;
using Task = BuildSpec::Task;

constexpr std::int64_t kBatch = 2, kSeq = 6;

std::vector<Task> tasks_of(const std::string& family) {
  if (family == "bert") return {Task::hidden, Task::pretrain, Task::span, Task::classify};
  return {Task::logits, Task::loss, Task::cached};
}

// Every output of the task, by name, on inputs that are a function of their names.
std::map<std::string, std::vector<double>> run_task(const Model& model, Task task) {
  const Graph graph = build_model(model.config, {.task = task, .batch = kBatch, .seq = kSeq});
  Session session(compile(graph, model.weights, compile_options_for(model.config)));
  for (const auto& [name, type] : session.executable().inputs()) {
    const std::int64_t below = name == "tokens" || name == "targets" ? model.config.vocab : name == "segments" || name == "next_sentence" ? 2 : 1;
    Tensor ids = testing::random_ids(type.shape, below, hash64(name));
    if (name == "lengths" || name == "last")
      for (auto& n : ids.data<std::int32_t>()) n = name == "last" ? kSeq - 1 : kSeq;
    testing::fill(session.input(name), ids);
  }
  session.run();
  std::map<std::string, std::vector<double>> out;
  for (const auto& [name, type] : session.executable().outputs()) out[name] = session.output(name).to_doubles();
  return out;
}

// The float model with each quantised weight moved by half a step, up or down at random.
Model jittered(const Model& model, std::uint64_t seed) {
  Model out = model;
  for (const auto& [name, transposed] : int8_weights(model.config)) {
    Tensor w = model.weights.at(name).clone();
    const std::int64_t n = w.shape()[transposed ? 0 : 1], k = w.shape()[transposed ? 1 : 0];
    Rng rng(seed, hash64(name));
    for (std::int64_t i = 0; i < n; ++i) {
      const auto at = [&](std::int64_t j) { return transposed ? i * k + j : j * n + i; };
      double largest = 0;
      for (std::int64_t j = 0; j < k; ++j) largest = std::max(largest, std::abs(w.at(at(j))));
      for (std::int64_t j = 0; j < k; ++j) w.set(at(j), w.at(at(j)) + (rng.below(2) ? 0.5 : -0.5) * largest / 127);
    }
    out.weights[name] = w;
  }
  return out;
}

double rms(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum / static_cast<double>(a.size()));
}

class CompressTasks : public ::testing::TestWithParam<const char*> {};

TEST_P(CompressTasks, OneFolderServesEveryTask) {
  Model model;
  model.name = "toy";
  model.config = tiny(GetParam());
  for (const Task task : tasks_of(GetParam())) model.weights.merge(lively_weights(build_model(model.config, {.task = task})));
  const fs::path folder = fs::temp_directory_path() / fmt::format("rhetor-tasks-{}-{}", GetParam(), ::getpid());
  save_model(folder / "full", model);
  compress_int8(folder / "full", folder / "int8", "");
  const ModelPtr small = load_model(folder / "int8");
  // No weight is kept twice.
  for (const auto& [name, transposed] : int8_weights(model.config)) {
    EXPECT_FALSE(small->weights.contains(name)) << name;
    EXPECT_TRUE(small->weights.contains(name + ".int8")) << name;
  }
  for (const auto& [name, tensor] : small->weights) {
    if (name.ends_with(".int8") || name.ends_with(".scale")) continue;
    EXPECT_TRUE(model.weights.contains(name)) << name;
  }

  for (const Task task : tasks_of(GetParam())) {
    const auto exact = run_task(model, task), got = run_task(*small, task);
    // Rounding moves a weight by at most half a step and by 1/sqrt(3) of that on average; activations are rounded as finely, so the two
    // together do sqrt(2/3) of what half a step in every weight does. Scalars (losses) need several draws to show their size.
    std::map<std::string, double> expected;
    for (std::uint64_t seed = 1; seed <= 6; ++seed)
      for (const auto& [name, values] : run_task(jittered(model, seed), task))
        expected[name] = std::max(expected[name], rms(values, exact.at(name)));
    for (const auto& [name, values] : got) {
      EXPECT_LE(rms(values, exact.at(name)), 2 * expected.at(name)) << GetParam() << " task " << static_cast<int>(task) << " " << name;
      EXPECT_GT(rms(values, exact.at(name)), 0) << name;
    }
  }
  fs::remove_all(folder);
}

INSTANTIATE_TEST_SUITE_P(Families, CompressTasks, ::testing::Values("gpt2", "llama", "bert"));

}  // namespace
}  // namespace rhetor
