// GPT-2: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019. Pre-norm transformer decoder with learned
// positions, GELU (tanh form) and an output matrix tied to the token embedding. Parameter names and layouts as in Hugging Face's
// GPT2LMHeadModel without the prefix "transformer.": linear layers are [in,out].
#include "models/families.h"
#include "models/layers.h"

namespace rhetor {
namespace {

Value attention_block(Net& net, Value x, const std::string& name, std::int64_t layer) {
  const ModelConfig& c = net.config();
  const auto scope = net.graph().scope("attn");
  const Value qkv = net.linear(x, name + ".c_attn", Dim{3 * c.hidden, "qkv"}, Layout::in_out, true);   // [B,S,3C]
  const auto part = [&](std::int64_t i) {
    return net.split_heads(slice(qkv, 2, i * c.hidden, (i + 1) * c.hidden), c.heads);                  // [B,S,H,D]
  };
  const Value o = net.causal_attention(part(0), part(1), part(2), layer);
  return net.dropout(net.linear(net.merge_heads(o), name + ".c_proj", net.hidden(), Layout::in_out, true, net.residual_stddev()));
}

Value mlp_block(Net& net, Value x, const std::string& name) {
  const ModelConfig& c = net.config();
  const auto scope = net.graph().scope("mlp");
  const Value h = gelu_tanh(net.linear(x, name + ".c_fc", Dim{c.ffn, "ffn"}, Layout::in_out, true));
  return net.dropout(net.linear(h, name + ".c_proj", net.hidden(), Layout::in_out, true, net.residual_stddev()));
}

}  // namespace

Graph build_gpt2(const ModelConfig& config, const BuildSpec& spec) {
  using Task = BuildSpec::Task;
  if (!is_head(spec.task)) require_task(config, spec, {Task::logits, Task::loss, Task::cached, Task::hidden});
  Net net(config, spec);
  const Value ids = net.tokens();
  const Value table = net.param("wte.weight", Shape{Dim{config.vocab, "vocab"}, net.hidden()}, net.normal(0.02));
  const Value position_table = net.param("wpe.weight", Shape{Dim{config.context, "context"}, net.hidden()}, net.normal(0.02));
  // Without a cache the positions are 0, 1, ..., so the rows are a slice.
  const Value place = net.cached() ? embedding(position_table, net.positions()) : slice(position_table, 0, 0, spec.seq);
  Value x = net.dropout(add(embedding(table, ids), place));                                            // [B,S,C]
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    const std::string name = fmt::format("h.{}", layer);
    const auto scope = net.graph().scope(name);
    x = add(x, attention_block(net, net.layer_norm(x, name + ".ln_1"), name + ".attn", layer));
    x = add(x, mlp_block(net, net.layer_norm(x, name + ".ln_2"), name + ".mlp"));
  }
  decoder_outputs(net, x, table, [&](Value h) { return net.layer_norm(h, "ln_f"); });
  return net.take();
}

}  // namespace rhetor
