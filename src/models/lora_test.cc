#include "models/lora.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include "base/error.h"
#include "models/test_models.h"
#include "tensor/safetensors.h"

namespace rhetor::testing {
namespace {

namespace fs = std::filesystem;
using Task = BuildSpec::Task;

bool nothing(const std::string&) { return false; }

struct Adapted {
  Model base;
  Adapter adapter;
  Graph graph;  // with adapters
};

// Lively adapters on a lively base.
Adapted adapted(const std::string& family, std::vector<std::string> targets, Task task) {
  Adapted out;
  out.base.config = tiny(family);
  if (task != Task::classify) out.base.config.labels = 0;
  const BuildSpec spec{.task = task, .batch = 2, .seq = 7};
  const Graph plain = build_model(out.base.config, spec);
  out.base.weights = lively_weights(plain);
  out.base.name = "base";
  out.adapter.config = out.base.config;
  out.adapter.options = {.rank = 3, .alpha = 5, .targets = std::move(targets)};
  out.graph = add_lora(plain, out.adapter.options, nothing);
  for (auto& [name, tensor] : lively_weights(out.graph, 9))
    if (name.find(".lora_") != std::string::npos) out.adapter.weights[name] = tensor;
  return out;
}

std::map<std::string, Tensor> inputs_of(const Graph& graph) {
  std::map<std::string, Tensor> out;
  for (const std::int32_t i : graph.input_nodes()) {
    if (graph.input_kind(i) != InputKind::input) continue;
    const Shape shape = graph.node(i).outputs[0].shape;
    const std::string& name = graph.input_name(i);
    if (name == "lengths") out[name] = Tensor::of<std::int32_t>(shape, {7, 5});
    else out[name] = random_ids(shape, name == "segments" ? 2 : 61, 3);
  }
  return out;
}

TEST(Lora, AMergedModelIsTheAdaptedOne) {
  const std::tuple<const char*, std::vector<std::string>, Task> cases[] = {
      {"gpt2", {}, Task::logits}, {"gpt2", {"all"}, Task::logits}, {"llama", {"q_proj", "mlp.down_proj"}, Task::logits},
      {"llama", {"all"}, Task::logits}, {"bert", {}, Task::hidden}, {"bert", {"output.dense"}, Task::hidden}};
  for (const auto& [family, targets, task] : cases) {
    SCOPED_TRACE(fmt::format("{} {}", family, targets.empty() ? "" : targets[0]));
    const Adapted a = adapted(family, targets, task);
    const Model merged = merge_adapter(a.base, a.adapter);
    std::map<std::string, Tensor> with = inputs_of(a.graph), after = with;
    with.insert(a.base.weights.begin(), a.base.weights.end());
    with.insert(a.adapter.weights.begin(), a.adapter.weights.end());
    after.insert(merged.weights.begin(), merged.weights.end());
    const EvalResult want = evaluate(a.graph, with, RefPrecision::f64);
    const EvalResult naive = evaluate(a.graph, with, RefPrecision::declared);
    const EvalResult got = evaluate(build_model(a.base.config, {.task = task, .batch = 2, .seq = 7}), after, RefPrecision::f64);
    for (const auto& [name, value] : want.outputs) {
      const Comparison difference = compare(got.outputs.at(name), value);
      EXPECT_TRUE(difference.within(derived_tolerance(naive.outputs.at(name), value, DType::f32, 3.0))) << name << ": " << difference.str();
    }
    // The adapters do something.
    std::map<std::string, Tensor> before = inputs_of(a.graph);
    before.insert(a.base.weights.begin(), a.base.weights.end());
    const EvalResult plain = evaluate(build_model(a.base.config, {.task = task, .batch = 2, .seq = 7}), before, RefPrecision::f64);
    EXPECT_FALSE(compare(plain.outputs.begin()->second, want.outputs.begin()->second).within(1e-3));
  }
}

TEST(Lora, FirstValuesChangeNothingAndOnlyAdaptersAreStates) {
  const ModelConfig config = tiny("llama");
  const Graph plain = build_model(config, {.task = Task::logits, .batch = 1, .seq = 5});
  const Graph graph = add_lora(plain, {.rank = 4}, nothing);
  std::int64_t states = 0;
  for (const std::int32_t i : graph.input_nodes()) {
    const bool adapter = graph.input_name(i).find(".lora_") != std::string::npos;
    if (graph.input_kind(i) == InputKind::state) ++states;
    if (graph.input_kind(i) == InputKind::input) continue;
    EXPECT_EQ(graph.input_kind(i) == InputKind::state, adapter) << graph.input_name(i);
  }
  EXPECT_EQ(states, 2 * 2 * config.layers);  // A and B of q_proj and v_proj
  std::map<std::string, Tensor> all = inputs_of(graph);
  const Weights first = init_weights(graph, 4);
  all.insert(first.begin(), first.end());
  EXPECT_EQ(compare(evaluate(plain, all, RefPrecision::f64).outputs.at("logits"), evaluate(graph, all, RefPrecision::f64).outputs.at("logits")).max_abs, 0);
}

TEST(Lora, AnAdapterFolderHasPeftsNamesAndLoadsAsTheMergedModel) {
  const fs::path folder = fs::temp_directory_path() / fmt::format("rhetor-lora-{}", ::getpid());
  Adapted a = adapted("gpt2", {"c_attn", "c_fc"}, Task::logits);
  save_model(folder / "base", a.base);
  a.adapter.base = "../base";  // from the adapter's place
  a.adapter.base_hash = weights_hash(a.base.weights);
  save_adapter(folder / "adapter", a.adapter, nullptr);
  const Safetensors file = load_safetensors(folder / "adapter" / "adapter_model.safetensors");
  EXPECT_TRUE(file.tensors.contains("base_model.model.transformer.h.1.attn.c_attn.lora_B.weight"));
  const std::string json = read_file(folder / "adapter" / "adapter_config.json");
  EXPECT_THAT(json, ::testing::HasSubstr("\"fan_in_fan_out\": true"));
  EXPECT_THAT(json, ::testing::HasSubstr("\"c_fc\""));
  const ModelPtr loaded = load_model(folder / "adapter");
  const Model merged = merge_adapter(a.base, a.adapter);
  EXPECT_EQ(weights_hash(loaded->weights), weights_hash(merged.weights));
  EXPECT_EQ(loaded->name, "adapter");
  // The base changes: said, not used.
  a.base.weights.begin()->second = a.base.weights.begin()->second.clone();
  a.base.weights.begin()->second.set(0, 7);
  save_model(folder / "base", a.base);
  EXPECT_THROW(load_model(folder / "adapter"), Error);
  // A whole model in its place.
  save_model(folder / "adapter", merged);
  EXPECT_FALSE(is_adapter_folder(folder / "adapter"));
  fs::remove_all(folder);
}

TEST(Lora, WhatDoesNotFitIsNamed) {
  const auto error_of = [](const auto& f) -> std::string {
    try {
      f();
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  const Graph graph = build_model(tiny("llama"), {.task = Task::logits});
  EXPECT_THAT(error_of([&] { add_lora(graph, {.rank = 2, .targets = {"q_prj"}}, nothing); }),
              ::testing::AllOf(::testing::HasSubstr("'q_prj'"), ::testing::HasSubstr("self_attn.q_proj")));
  Adapted a = adapted("llama", {"q_proj"}, Task::logits);
  a.adapter.options.rank = 2;
  EXPECT_THAT(error_of([&] { merge_adapter(a.base, a.adapter); }), ::testing::HasSubstr("rank 2"));
  a = adapted("llama", {"q_proj"}, Task::logits);
  a.adapter.weights.erase("model.layers.0.self_attn.q_proj.lora_B.weight");
  EXPECT_THAT(error_of([&] { merge_adapter(a.base, a.adapter); }), ::testing::HasSubstr("lora_B"));
  EXPECT_THAT(error_of([&] { merge_adapter(adapted("bert", {}, Task::hidden).base, adapted("gpt2", {}, Task::logits).adapter); }),
              ::testing::HasSubstr("does not have"));
}

}  // namespace
}  // namespace rhetor::testing
