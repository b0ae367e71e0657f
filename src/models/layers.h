// What the model families share: parameters with names and first values, linear layers, norms, attention blocks.
// Shapes: B batch, S sequence, C hidden, H heads, G key/value heads, D head dim, V vocab.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "models/model.h"
#include "ops/ops.h"

namespace rhetor {

// How the matrix of a linear layer lies in its parameter: GPT-2's files hold [in,out], everybody else's [out,in].
enum class Layout { in_out, out_in };

// A graph under construction with the choices that hold for all of it. Parameter names are full names, as in Hugging Face's
// files.
class Net {
 public:
  Net(const ModelConfig& config, const BuildSpec& spec);

  Graph& graph() { return graph_; }
  Graph take() { return std::move(graph_); }
  const ModelConfig& config() const { return config_; }
  const BuildSpec& spec() const { return spec_; }

  // ---- inputs ----
  Value tokens(const std::string& name = "tokens");       // i32 [B,S]
  Value per_sequence(const std::string& name);            // i32 [B]
  // The parameter called `name`; the same value when asked for again (tied weights).
  Value param(const std::string& name, Shape shape, const std::string& init);
  std::string normal(double stddev) const;                // the init rule "normal:<stddev>"

  // ---- layers ----
  // x [..., in] -> [..., out]: NAME.weight and, if `bias`, NAME.bias.
  Value linear(Value x, const std::string& name, Dim out, Layout layout, bool bias, double stddev = 0.02);
  // First deviation of layers that write into the residual stream, whose variance would grow with depth (Radford et al.
  // 2019, 2.3).
  double residual_stddev() const;
  Value layer_norm(Value x, const std::string& name);     // NAME.weight, NAME.bias
  Value rms_norm(Value x, const std::string& name);       // NAME.weight
  Value dropout(Value x);                                 // x itself unless training with config.dropout > 0
  // table [rows, C] looked up by ids [...] -> [..., C].
  Value lookup(const std::string& name, Dim rows, Value ids, double stddev = 0.02);

  // ---- attention over [B,S,C], heads as views: no data moves ----
  Value split_heads(Value x, std::int64_t heads);         // [B,S,heads*D] -> [B,S,heads,D]
  Value merge_heads(Value x);                             // [B,S,H,D] -> [B,S,C]
  // Causal attention of q [B,S,H,D] over k, v [B,S,G,D]; with Task::cached over the layer's cache, which k and v are appended to.
  Value causal_attention(Value q, Value k, Value v, std::int64_t layer);
  // The absolute position of each token, i32 [B,S] (cached: from the input "positions").
  Value positions();

  // Rows x[b, rows[b]] of x [B,S,C] -> [B,C]; rows i32 [B].
  Value pick_rows(Value x, Value rows);
  // f32 [B,S]: 1 where a token is real, 0 where it is padding. lengths i32 [B].
  Value real_tokens(Value lengths);

  // ---- heads of language models ----
  // Task logits, loss or cached from the last hidden states x [B,S,C]: the final norm (`norm`) and the output matrix [V,C] (tied
  // or `head_name`).
  void language_head(Value x, Value embedding_table, const std::string& head_name, const std::function<Value(Value)>& norm);
  // Mean over the targets that are not -100, a scalar; `per_row` (optional) receives the loss of every row, 0 where ignored.
  Value masked_cross_entropy(Value logits, Value targets, Value* per_row = nullptr);

  bool cached() const { return spec_.task == BuildSpec::Task::cached; }
  Dim batch() const { return {spec_.batch, "batch"}; }
  Dim seq() const { return {spec_.seq, "seq"}; }
  Dim hidden() const { return {config_.hidden, "hidden"}; }

 private:
  Graph graph_;
  const ModelConfig& config_;
  const BuildSpec& spec_;
  Value seed_, start_, positions_;
  std::int64_t stream_ = 0;   // one dropout mask a place in the model
};

// What a family gives to the fine-tuning heads of heads.cc.
struct Encoded {
  Value hidden;                        // [B,S,C]
  Value lengths;                       // i32 [B]
  std::function<Value()> pooled;       // [B,C], one vector a text
  std::string classifier;              // the name of the classifier's weights
  bool classifier_bias = true;
};
// True for the tasks that head() builds.
bool is_head(BuildSpec::Task task);
// Adds the outputs of spec.task, and its loss where asked for.
void head(Net& net, const Encoded& encoded);
// The same for a decoder: a text's vector is that of its last token, which has seen all others. Weights named as in Hugging
// Face's ForSequenceClassification and ForTokenClassification of these families.
void decoder_head(Net& net, Value hidden);
// What a causal decoder gives for its task: hidden states, a head, or the language model's outputs. `x` [B,S,C] comes from the
// last layer, `norm` is what follows it, `table` the token embedding, to which the output matrix "lm_head.weight" may be tied.
void decoder_outputs(Net& net, Value x, Value table, const std::function<Value(Value)>& norm);
// losses.cc: the scalar loss of each head. logits as in BuildSpec::Task.
Value classification_loss(Net& net, Value logits, Value targets);   // logits [R,labels], targets i32 [R]
Value span_loss(Net& net, Value start_logits, Value end_logits, Value lengths);
Value regression_loss(Net& net, Value logits);
Value choice_loss(Net& net, Value logits);
Value ranking_loss(Net& net, Value logits);
Value embedding_loss(Net& net, Value embedding);

// Fails unless the task is one of `tasks`, naming the family.
void require_task(const ModelConfig& config, const BuildSpec& spec, std::initializer_list<BuildSpec::Task> tasks);
std::string_view name(BuildSpec::Task task);

}  // namespace rhetor
