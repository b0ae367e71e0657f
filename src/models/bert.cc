// BERT: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", 2019. Post-norm transformer
// encoder with learned positions and segments. Parameter names and layouts as in Hugging Face's BertForPreTraining and
// its fine-tuning classes: linear layers are [out,in].
#include "models/families.h"
#include "models/layers.h"

namespace rhetor {
namespace {

using Task = BuildSpec::Task;

// Task::pretrain without padding (spec.tokens = T > 0): "tokens", "segments" and "positions" are [T], the texts of the batch one after
// the other; "lengths" [B] says how long each is, 0 = none. All layers work on the T rows but attention, which sees texts as rows of S
// places: place p of text b holds token "place_tokens" [B,S] (any, past its length), token t stands at place "token_places" [T], b S + p.
// "first_tokens" [B] are the [CLS]s; "masked_positions" and "targets" [P] count in tokens, P = predictions.
struct Encoder {
  Value table;    // word embeddings [V,C]
  Value hidden;   // [B,S,C]; without padding [T,C]
  Value lengths;  // i32 [B]
  Value places, tokens;  // without padding: "place_tokens", flat, and "token_places"
};

Value input(Net& net, const std::string& name, Shape shape) { return net.graph().input(name, {DType::i32, shape}); }

Value encoder_layer(Net& net, Value x, const Encoder& e, const std::string& name) {
  const ModelConfig& c = net.config();
  const auto scope = net.graph().scope(name);
  const auto project = [&](const char* which) {
    const Value y = net.linear(x, name + ".attention.self." + which, net.hidden(), Layout::out_in, true);
    return net.split_heads(e.places ? embedding(y, e.places) : y, c.heads);
  };
  const Value q = project("query"), k = project("key"), v = project("value");           // [B,S,H,D]
  Value o = net.merge_heads(attention(q, k, v, {.lengths = e.lengths}));
  if (e.places) o = embedding(reshape(o, Shape{net.spec().batch * net.spec().seq, net.hidden()}), e.tokens);
  const Value a = net.dropout(net.linear(o, name + ".attention.output.dense", net.hidden(), Layout::out_in, true));
  x = net.layer_norm(add(x, a), name + ".attention.output.LayerNorm");
  const Value h = gelu(net.linear(x, name + ".intermediate.dense", Dim{c.ffn, "ffn"}, Layout::out_in, true));
  const Value m = net.dropout(net.linear(h, name + ".output.dense", net.hidden(), Layout::out_in, true));
  return net.layer_norm(add(x, m), name + ".output.LayerNorm");
}

Encoder encode(Net& net) {
  const ModelConfig& c = net.config();
  const bool flat = net.spec().tokens > 0;
  const Dim count{net.spec().tokens, "tokens"};
  const Value ids = flat ? input(net, "tokens", Shape{count}) : net.tokens();
  const Value segments = flat ? input(net, "segments", Shape{count}) : net.tokens("segments");
  Encoder e;
  e.lengths = net.per_sequence("lengths");
  if (flat) {
    e.places = reshape(input(net, "place_tokens", Shape{net.batch(), net.seq()}), Shape{net.spec().batch * net.spec().seq});
    e.tokens = input(net, "token_places", Shape{count});
  }
  const std::string prefix = "bert.embeddings.";
  e.table = net.param(prefix + "word_embeddings.weight", Shape{Dim{c.vocab, "vocab"}, net.hidden()}, net.normal(0.02));
  const Value places = net.param(prefix + "position_embeddings.weight", Shape{Dim{c.context, "context"}, net.hidden()}, net.normal(0.02));
  const Value place = flat ? embedding(places, input(net, "positions", Shape{count})) : slice(places, 0, 0, net.spec().seq);
  Value x = add(embedding(e.table, ids), place);                                        // [B,S,C] or [T,C]
  x = add(x, net.lookup(prefix + "token_type_embeddings.weight", Dim{c.segments, "segments"}, segments));
  x = net.dropout(net.layer_norm(x, prefix + "LayerNorm"));
  for (std::int64_t layer = 0; layer < c.layers; ++layer) x = encoder_layer(net, x, e, fmt::format("bert.encoder.layer.{}", layer));
  e.hidden = x;
  return e;
}

// tanh(W h_0 + b) of the first token, [B,C]; h_0 is the row of "[CLS]".
Value pool(Net& net, const Encoder& e) {
  const Value first = e.places ? embedding(e.hidden, net.per_sequence("first_tokens"))
                               : reshape(slice(e.hidden, 1, 0, 1), Shape{net.batch(), net.hidden()});
  return tanh(net.linear(first, "bert.pooler.dense", net.hidden(), Layout::out_in, true));
}

// What the masked-token head reads, and its targets: every place or, as the head's products are by far the largest of a small model
// and one token in seven has a target, the masked ones only.
struct Predicted {
  Value hidden, targets;  // [R,C], [R]
};
Predicted predicted(Net& net, const Encoder& e) {
  const std::int64_t batch = net.spec().batch, seq = net.spec().seq, predictions = net.spec().predictions;
  if (e.places) {
    const Shape shape{Dim{predictions, "predictions"}};
    return {embedding(e.hidden, input(net, "masked_positions", shape)), input(net, "targets", shape)};
  }
  const Value all = reshape(e.hidden, Shape{batch * seq, net.hidden()});
  if (predictions == 0) return {all, reshape(net.tokens("targets"), Shape{batch * seq})};
  std::vector<std::int32_t> first;
  for (std::int64_t b = 0; b < batch; ++b) first.push_back(static_cast<std::int32_t>(b * seq));
  const Shape shape{net.batch(), Dim{predictions, "predictions"}};
  const Value rows = add(input(net, "masked_positions", shape), net.graph().constant(Tensor::of<std::int32_t>(Shape{batch, 1}, first)));
  return {embedding(all, reshape(rows, Shape{batch * predictions})), reshape(input(net, "targets", shape), Shape{batch * predictions})};
}

// Masked language model and next-sentence heads (section 3.1).
void pretrain_head(Net& net, const Encoder& encoder, Value pooled) {
  Graph& g = net.graph();
  const ModelConfig& c = net.config();
  const auto scope = g.scope("cls");
  const Predicted places = predicted(net, encoder);
  Value h = gelu(net.linear(places.hidden, "cls.predictions.transform.dense", net.hidden(), Layout::out_in, true));
  h = net.layer_norm(h, "cls.predictions.transform.LayerNorm");
  const Dim vocab{c.vocab, "vocab"};
  const Value output = c.tied_embeddings
                           ? encoder.table
                           : net.param("cls.predictions.decoder.weight", Shape{vocab, net.hidden()}, net.normal(0.02));
  const Value logits = add(matmul(h, output, false, true), net.param("cls.predictions.bias", Shape{vocab}, "zeros"));
  const Value mlm = net.masked_cross_entropy(logits, places.targets);
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
  if (spec.tokens > 0) require_task(config, spec, {Task::pretrain});
  Net net(config, spec);
  const Encoder encoder = encode(net);
  if (spec.task == Task::pretrain) {
    pretrain_head(net, encoder, pool(net, encoder));
  } else if (spec.task == Task::hidden) {
    net.graph().output("hidden", encoder.hidden);
    if (has_pooler(config)) net.graph().output("pooled", pool(net, encoder));
  } else {
    head(net, {.hidden = encoder.hidden,
               .lengths = encoder.lengths,
               .pooled = [&] { return net.dropout(pool(net, encoder)); },
               .classifier = "classifier"});
  }
  return net.take();
}

}  // namespace rhetor
