// BERT: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", 2019. Post-norm transformer
// encoder with learned positions and segments. Parameter names and layouts as in Hugging Face's BertForPreTraining and
// its fine-tuning classes: linear layers are [out,in].
#include "models/families.h"
#include "models/layers.h"

namespace rhetor {
namespace {

using Task = BuildSpec::Task;

struct Encoder {
  Value table;    // word embeddings [V,C]
  Value hidden;   // [B,S,C]
  Value lengths;  // i32 [B]
};

Value encoder_layer(Net& net, Value x, Value lengths, const std::string& name) {
  const ModelConfig& c = net.config();
  const auto scope = net.graph().scope(name);
  const auto project = [&](const char* which) {
    return net.split_heads(net.linear(x, name + ".attention.self." + which, net.hidden(), Layout::out_in, true), c.heads);
  };
  const Value q = project("query"), k = project("key"), v = project("value");           // [B,S,H,D]
  const Value o = net.merge_heads(attention(q, k, v, {.lengths = lengths}));
  const Value a = net.dropout(net.linear(o, name + ".attention.output.dense", net.hidden(), Layout::out_in, true));
  x = net.layer_norm(add(x, a), name + ".attention.output.LayerNorm");
  const Value h = gelu(net.linear(x, name + ".intermediate.dense", Dim{c.ffn, "ffn"}, Layout::out_in, true));
  const Value m = net.dropout(net.linear(h, name + ".output.dense", net.hidden(), Layout::out_in, true));
  return net.layer_norm(add(x, m), name + ".output.LayerNorm");
}

Encoder encode(Net& net) {
  const ModelConfig& c = net.config();
  const Value ids = net.tokens(), segments = net.tokens("segments"), lengths = net.per_sequence("lengths");
  const std::string prefix = "bert.embeddings.";
  const Value table = net.param(prefix + "word_embeddings.weight", Shape{Dim{c.vocab, "vocab"}, net.hidden()}, net.normal(0.02));
  const Value places = net.param(prefix + "position_embeddings.weight", Shape{Dim{c.context, "context"}, net.hidden()}, net.normal(0.02));
  Value x = add(embedding(table, ids), slice(places, 0, 0, net.spec().seq));            // [B,S,C]
  x = add(x, net.lookup(prefix + "token_type_embeddings.weight", Dim{c.segments, "segments"}, segments));
  x = net.dropout(net.layer_norm(x, prefix + "LayerNorm"));
  for (std::int64_t layer = 0; layer < c.layers; ++layer)
    x = encoder_layer(net, x, lengths, fmt::format("bert.encoder.layer.{}", layer));
  return {table, x, lengths};
}

// tanh(W h_0 + b) of the first token, [B,C]; h_0 is the row of "[CLS]".
Value pool(Net& net, Value hidden) {
  const Value first = reshape(slice(hidden, 1, 0, 1), Shape{net.batch(), net.hidden()});
  return tanh(net.linear(first, "bert.pooler.dense", net.hidden(), Layout::out_in, true));
}

// Masked language model and next-sentence heads (section 3.1).
void pretrain_head(Net& net, const Encoder& encoder, Value pooled) {
  Graph& g = net.graph();
  const ModelConfig& c = net.config();
  const auto scope = g.scope("cls");
  const std::int64_t rows = net.spec().batch * net.spec().seq;
  Value h = reshape(encoder.hidden, Shape{rows, net.hidden()});
  h = gelu(net.linear(h, "cls.predictions.transform.dense", net.hidden(), Layout::out_in, true));
  h = net.layer_norm(h, "cls.predictions.transform.LayerNorm");
  const Dim vocab{c.vocab, "vocab"};
  const Value output = c.tied_embeddings
                           ? encoder.table
                           : net.param("cls.predictions.decoder.weight", Shape{vocab, net.hidden()}, net.normal(0.02));
  const Value logits = add(matmul(h, output, false, true), net.param("cls.predictions.bias", Shape{vocab}, "zeros"));
  const Value mlm = net.masked_cross_entropy(logits, reshape(net.tokens("targets"), Shape{rows}));
  const Value follows = net.linear(pooled, "cls.seq_relationship", Dim{2}, Layout::out_in, true);
  const Value nsp = net.masked_cross_entropy(follows, net.per_sequence("next_sentence"));
  g.output("loss", add(mlm, nsp));
  g.output("mlm_loss", mlm);
  g.output("nsp_loss", nsp);
}

// As Hugging Face's classes: heads that read every token do without.
bool has_pooler(const ModelConfig& config) {
  const TaskKind* kind = find_task_kind(config.task);
  return !kind || (kind->task != Task::span && kind->task != Task::tag && kind->task != Task::embed);
}

}  // namespace

Graph build_bert(const ModelConfig& config, const BuildSpec& spec) {
  if (!is_head(spec.task)) require_task(config, spec, {Task::hidden, Task::pretrain});
  Net net(config, spec);
  const Encoder encoder = encode(net);
  if (spec.task == Task::pretrain) {
    pretrain_head(net, encoder, pool(net, encoder.hidden));
  } else if (spec.task == Task::hidden) {
    net.graph().output("hidden", encoder.hidden);
    if (has_pooler(config)) net.graph().output("pooled", pool(net, encoder.hidden));
  } else {
    head(net, {.hidden = encoder.hidden,
               .lengths = encoder.lengths,
               .pooled = [&] { return net.dropout(pool(net, encoder.hidden)); },
               .classifier = "classifier"});
  }
  return net.take();
}

}  // namespace rhetor
