// Any bytes as the text of a graph: refused with an Error, or a legal graph whose text reads back as itself.
#include "base/error.h"
#include "graph/text.h"
#include "graph/verify.h"
#include "ops/ops.h"
#include "ops/registry.h"
#include "seeds.h"

using namespace rhetor;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const Graph graph = parse_graph(text, all_ops());
    verify(graph, "parsing");
    const std::string again = to_text(graph);
    require(to_text(parse_graph(again, all_ops())) == again);
  } catch (const Error& error) {
    require(error.kind() != ErrorKind::internal);
  }
  return 0;
}

std::vector<std::string> fuzz_seeds() {
  Graph g;
  const Value tokens = g.input("tokens", {DType::i32, {2, 4}});
  const Value table = g.input("wte", {DType::f32, {11, 8}}, InputKind::param, "normal:0.02");
  const Value cache = g.input("cache", {DType::f32, {8}}, InputKind::state);
  Value x = embedding(table, tokens);
  {
    const auto scope = g.scope("h.0");
    const std::vector<Value> parts = split(x, {4, 4}, 2);
    x = concat({gelu(parts[0]), mul(parts[1], 0.5)}, 2);
    x = layer_norm(x, cache, cache);
  }
  g.set_update(cache, add(cache, 1));
  g.output("logits", matmul(reshape(x, {8, 8}), table, false, true));
  Graph attend;
  const Value q = attend.input("q", {DType::bf16, {1, 3, 2, 4}});
  attend.output("o", cast(attention(q, q, q, {.causal = true}), DType::f32));
  return {"", to_text(g), to_text(attend), to_text(g, {.scopes = false})};
}
