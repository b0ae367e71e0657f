// Model families as forward graphs, and the model folder.
//
// A family is one function: (config, build spec) -> Graph. It declares its parameters as graph inputs with an init rule, so the
// graph is the only place that knows their names, shapes and first values.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "runtime/executable.h"
#include "text/tokenizer.h"

namespace rhetor {

struct ModelConfig {
  std::string family = "gpt2";     // gpt2, llama, bert
  std::int64_t vocab = 0, layers = 0, hidden = 0, heads = 0, kv_heads = 0, ffn = 0, context = 0;
  std::int64_t segments = 2;       // bert token types
  std::int64_t labels = 0;         // bert classification head
  double norm_eps = 1e-5, rope_theta = 10000.0, dropout = 0.0;
  bool tied_embeddings = true;
  std::string quantization;        // "" or "int8": what the weights file holds

  std::string to_json() const;
  static ModelConfig from_json(std::string_view json, const std::string& name);
  // Fails naming the field: hidden divisible by heads, heads by kv_heads, all positive, sizes that fit in memory.
  void validate() const;
  std::int64_t parameters() const; // count, from the graph's parameter list
};

// One dial: `layers` derives hidden (64 per layer up to a point), heads, ffn, context. `preset` names a known model
// ("gpt2", "gpt2-124m", "gpt2-1.5b", "llama-1.3b", "llama-7b", "bert-base", "bert-large", ...) and fails with the list of names.
ModelConfig size_dial(const std::string& family, std::int64_t layers, std::int64_t vocab);
ModelConfig model_preset(const std::string& preset);
std::vector<std::string> model_preset_names();

// What to build.
struct BuildSpec {
  enum class Task {
    logits,          // gpt2, llama: inputs "tokens" i32 [B,S] -> output "logits" f32 [B,S,V]
    loss,            // gpt2, llama: + input "targets" i32 [B,S] (-100 ignored) -> outputs "loss" (scalar mean) and "token_loss" [B,S]
    cached,          // gpt2, llama: inputs "tokens" [B,S], "positions" i32 [B] (tokens already in the cache), "last" i32 [B] (row in [0,S) to
                     // read) -> "logits" [B,V] of that row; states "cache.<layer>.k|v" [B,capacity,G,D]. Prefill: S > 1; decode: S = 1.
    hidden,          // bert: inputs "tokens", "segments" [B,S], "lengths" i32 [B] -> "hidden" [B,S,C], "pooled" [B,C]
    pretrain,        // bert: + "targets" [B,S], "next_sentence" [B] -> "loss", "mlm_loss", "nsp_loss" (scalars)
    classify,        // bert: -> "logits" [B,labels]; with training: + "labels" [B] -> "loss"
    span             // bert: -> "start_logits", "end_logits" [B,S]; with training: + "start", "end" [B] -> "loss"
  };
  Task task = Task::logits;
  std::int64_t batch = 1, seq = 1, capacity = 0;
  bool training = false;                     // dropout on: + input "seed" i64 scalar
  InputKind weights = InputKind::param;      // state when they are trained
};
// Fails naming the field: a task the family lacks, seq beyond the context, a cache beyond it. capacity 0 = the context.
Graph build_model(const ModelConfig& config, const BuildSpec& spec);

// What compile() must be told of a model whose weights are quantised: with quantization "int8" the weights hold "NAME.int8" and
// "NAME.scale" in place of "NAME".
// Which weights those are is decided once for all tasks (int8_weights), so every graph of the model reads the same file.
CompileOptions compile_options_for(const ModelConfig& config, CompileOptions options = {});
// The weights that int8 compression takes: each that a matmul of some task reads as its right operand; true if it is stored [n,k],
// false if [k,n]. Depends on the configuration alone, not on `quantization`.
std::map<std::string, bool, std::less<>> int8_weights(const ModelConfig& config);
// The weights a model folder of this configuration holds, over all tasks: name -> type, and whether every task needs it.
struct ExpectedWeight {
  Type type;
  bool required = true;
};
std::map<std::string, ExpectedWeight> expected_weights(const ModelConfig& config);

struct ModelFamily {
  std::string_view name, doc;
  Graph (*build)(const ModelConfig&, const BuildSpec&);
};
const std::vector<ModelFamily>& model_families();   // models/registry.cc

// First weights by each parameter's init rule: a pure function of (graph, seed).
Weights init_weights(const Graph& graph, std::uint64_t seed);

// A model folder: config.json, model.safetensors, tokenizer.json. A loaded model is immutable and shared.
struct Model {
  ModelConfig config;
  Weights weights;                 // mapped views
  TokenizerPtr tokenizer;          // null if the folder has none
  std::string name;                // for /v1/models
};
using ModelPtr = std::shared_ptr<const Model>;
// Fails naming the file and, for weights, the tensor: missing, unexpected, wrong shape or dtype.
ModelPtr load_model(const std::filesystem::path& folder);
void save_model(const std::filesystem::path& folder, const Model& model);

}  // namespace rhetor
