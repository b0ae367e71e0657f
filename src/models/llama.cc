// LLaMA: Touvron et al., "LLaMA: Open and Efficient Foundation Language Models", 2023. Pre-norm transformer decoder with RMS
// norm, rotary positions (Su et al. 2021), SwiGLU (Shazeer 2020) and grouped-query attention (Ainslie et al. 2023). Parameter
// names and layouts as in Hugging Face's LlamaForCausalLM: linear layers are [out,in] and have no bias.
#include "models/families.h"
#include "models/layers.h"

namespace rhetor {
namespace {

Value attention_block(Net& net, Value x, const std::string& name, std::int64_t layer) {
  const ModelConfig& c = net.config();
  const auto scope = net.graph().scope("self_attn");
  const std::int64_t head_dim = c.hidden / c.heads;
  const auto project = [&](const char* which, std::int64_t heads) {
    return net.split_heads(net.linear(x, name + "." + which, Dim{heads * head_dim}, Layout::out_in, false), heads);
  };
  const Value places = net.positions();                                       // i32 [B,S]
  const Value q = rope(project("q_proj", c.heads), places, c.rope_theta);     // [B,S,H,D]
  const Value k = rope(project("k_proj", c.kv_heads), places, c.rope_theta);  // [B,S,G,D]
  const Value v = project("v_proj", c.kv_heads);
  const Value o = net.causal_attention(q, k, v, layer);
  return net.dropout(
      net.linear(net.merge_heads(o), name + ".o_proj", net.hidden(), Layout::out_in, false, net.residual_stddev()));
}

Value mlp_block(Net& net, Value x, const std::string& name) {
  const ModelConfig& c = net.config();
  const auto scope = net.graph().scope("mlp");
  const Dim ffn{c.ffn, "ffn"};
  const Value gate = silu(net.linear(x, name + ".gate_proj", ffn, Layout::out_in, false));
  const Value up = net.linear(x, name + ".up_proj", ffn, Layout::out_in, false);
  return net.dropout(net.linear(mul(gate, up), name + ".down_proj", net.hidden(), Layout::out_in, false, net.residual_stddev()));
}

}  // namespace

Graph build_llama(const ModelConfig& config, const BuildSpec& spec) {
  using Task = BuildSpec::Task;
  if (!is_head(spec.task)) require_task(config, spec, {Task::logits, Task::loss, Task::cached, Task::hidden});
  Net net(config, spec);
  const Value ids = net.tokens();
  const Value table = net.param("model.embed_tokens.weight", Shape{Dim{config.vocab, "vocab"}, net.hidden()}, net.normal(0.02));
  Value x = net.dropout(embedding(table, ids));                               // [B,S,C]
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    const std::string name = fmt::format("model.layers.{}", layer);
    const auto scope = net.graph().scope(name);
    x = add(x, attention_block(net, net.rms_norm(x, name + ".input_layernorm"), name + ".self_attn", layer));
    x = add(x, mlp_block(net, net.rms_norm(x, name + ".post_attention_layernorm"), name + ".mlp"));
  }
  decoder_outputs(net, x, table, [&](Value h) { return net.rms_norm(h, "model.norm"); });
  return net.take();
}

}  // namespace rhetor
