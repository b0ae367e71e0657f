// Model families as forward graphs, and the model folder.
//
// A family is one function: (config, build spec) -> Graph. It declares its parameters as graph inputs with an init rule, so the
// graph is the only place that knows their names, shapes and first values.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "data/chat_template.h"
#include "graph/graph.h"
#include "runtime/executable.h"

namespace rhetor {

// Weights that matmuls read: as int8 rows; as int4 groups but those of the vocabulary (and of rows that are no whole groups), which stay
// int8; as int4 groups, those of the vocabulary too.
inline constexpr std::string_view kInt8 = "int8", kInt4 = "int4", kInt4Head = "int4-head";

struct ModelConfig {
  std::string family = "gpt2";     // gpt2, llama, bert, t5 (`layers` of encoder and of decoder each)
  std::int64_t vocab = 0, layers = 0, hidden = 0, heads = 0, kv_heads = 0, ffn = 0, context = 0;
  std::int64_t segments = 2;       // bert token types
  std::int64_t labels = 0;         // rows of the classifier; 1 for regression, choice and ranking
  double norm_eps = 1e-5, rope_theta = 10000.0, dropout = 0.0;
  bool tied_embeddings = true;
  std::string quantization;        // "" or one of kInt8, kInt4, kInt4Head: what the weights file holds
  std::string task;                // what it was fine-tuned for: "", or a name of task_kinds()
  std::vector<std::string> label_names;   // of classification and tagging: empty, or one a label

  // The name of label i: its number where there are no names.
  std::string label_name(std::int64_t i) const;
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

// How the losses of fine-tuning heads are computed.
struct LossOptions {
  double label_smoothing = 0;                // classify, tag, choice: this share of each target is spread over all labels
  std::vector<double> class_weights;         // classify, tag: one a label, or empty; the loss is the weighted mean
  enum class Ranking { pointwise, pairwise, listwise } ranking = Ranking::listwise;
  enum class Embedding { contrastive, cosine } embedding = Embedding::contrastive;
  double temperature = 0.05;                 // contrastive: what cosines are divided by
};

// What to build.
struct BuildSpec {
  enum class Task {
    logits,          // gpt2, llama: inputs "tokens" i32 [B,S] -> output "logits" f32 [B,S,V]
    loss,            // gpt2, llama: + input "targets" i32 [B,S] (-100 ignored) -> outputs "loss" (scalar mean) and "token_loss" [B,S]
    cached,          // gpt2, llama: inputs "tokens" [B,S], "positions" i32 [B] (tokens already in the cache), "last" i32 [B] (row in [0,S) to
                     // read) -> "logits" [B,V] of that row; states "cache.<layer>.k|v" [B,capacity,G,D]. Prefill: S > 1; decode: S = 1.
    hidden,          // bert: inputs "tokens", "segments" [B,S], "lengths" i32 [B] -> "hidden" [B,S,C], "pooled" [B,C]
                     // (not if fine-tuned for span, tagging or embedding, which have no pooler);
                     // gpt2, llama: "tokens" -> "hidden", after the last norm
                     // t5: "tokens" [B,S], "lengths" [B], "decoder_tokens" [B,U] -> "logits" [B,U,V]; loss: + "targets" [B,U]
    pretrain,        // bert: + "targets" [B,S], "next_sentence" [B] -> "loss", "mlm_loss", "nsp_loss" (scalars)
                     // tokens T > 0, without padding: see bert.cc. Else predictions P > 0: "targets" [B,P] are those of the places "masked_positions" [B,P], and only they meet the head
    // Fine-tuning heads, for every family (gpt2 and llama take no "segments"): inputs as `hidden` plus "lengths". With `training` or
    // `with_loss` they also take targets and give the scalar "loss". B rows make N = B / group examples.
    classify,        // -> "logits" [B,labels]; loss: "labels" i32 [B], -100 = not counted
    span,            // -> "start_logits", "end_logits" [B,S]; loss: "start", "end" i32 [B], -100 = not counted
    regress,         // -> "logits" [B,labels]; loss: "values" f32 [B,labels], mean square over the finite ones
    tag,             // -> "logits" [B,S,labels]; loss: "labels" i32 [B,S], -100 = not counted
    choice,          // -> "logits" [B,1]; loss: "labels" i32 [N] (the right one of `group` rows), "counts" i32 [N] (rows in use)
    rank,            // -> "logits" [B,1]; loss: "values" f32 [N,group], relevance of each row to the example's query; not finite = no document
    embed            // -> "embedding" [B,C], the mean over the real tokens, of length 1; loss of a group "anchor, match, other ...":
                     // contrastive: "labels" i32 [N], 0 or -100 = not counted; cosine (group 2): "values" f32 [N]
  };
  Task task = Task::logits;
  std::int64_t batch = 1, seq = 1, capacity = 0;
  bool training = false;                     // dropout on: + input "seed" i64 scalar
  InputKind weights = InputKind::param;      // state when they are trained
  bool with_loss = false;                    // fine-tuning heads: targets and loss, as in training, but without dropout
  std::int64_t group = 1;                    // choice, rank, embed: consecutive rows that make one example
  LossOptions losses;
  DType cache = DType::f32;                  // cached: what keys and values are kept in
  std::int64_t predictions = 0;              // pretrain: targets a row; 0 = every place
  std::int64_t tokens = 0;                   // pretrain: T tokens of `batch` texts one after the other; 0 = rows of seq places
  std::int64_t target_seq = 0;               // t5: U; 0 = seq
};
// The tasks a model can be fine-tuned for, by the names that config.json and recipes use.
struct TaskKind {
  std::string_view name;                     // "classification"
  BuildSpec::Task task;
  std::string_view doc;
};
const std::vector<TaskKind>& task_kinds();
// Null if there is none; "" has none.
const TaskKind* find_task_kind(std::string_view name);
// Fails naming the field: a task the family lacks, seq beyond the context, a cache beyond it. capacity 0 = the context.
Graph build_model(const ModelConfig& config, const BuildSpec& spec);

// What compile() must be told of a model whose weights are quantised: they hold "NAME.int8" or "NAME.int4", and "NAME.scale", in place
// of "NAME".
// Which weights those are is decided once for all tasks (int8_weights), so every graph of the model reads the same file.
CompileOptions compile_options_for(const ModelConfig& config, CompileOptions options = {});
// How a finished model is run: on a device (that of the options, else the process's) in 16 bits, bf16 if the options name none, with all
// that lies between contractions; on the CPU, or with keep_precision, as the options say.
CompileOptions inference_options(CompileOptions options);
// The weights that int8 compression takes: each that a matmul of some task reads as its right operand; true if it is stored [n,k],
// false if [k,n]. Depends on the configuration alone, not on `quantization`.
std::map<std::string, bool, std::less<>> int8_weights(const ModelConfig& config);
// Those of them that the configuration's quantization holds as int4.
std::map<std::string, bool, std::less<>> int4_weights(const ModelConfig& config);
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

// A model folder: config.json, model.safetensors, tokenizer.json, and perhaps a chat template. A loaded model is immutable and shared.
struct Model {
  ModelConfig config;
  Weights weights;                 // mapped views
  TokenizerPtr tokenizer;          // null if the folder has none
  std::string name;                // for /v1/models
  ChatTemplatePtr chat_template;   // what it converses in; null: the default of its tokenizer
};
using ModelPtr = std::shared_ptr<const Model>;
// Fails naming the file and, for weights, the tensor: missing, unexpected, wrong shape or dtype.
ModelPtr load_model(const std::filesystem::path& folder);
// A chat template in the folder stays if the model has none of its own.
void save_model(const std::filesystem::path& folder, const Model& model);

}  // namespace rhetor
