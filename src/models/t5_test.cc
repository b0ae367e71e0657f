#include <gmock/gmock.h>

#include "base/error.h"
#include "models/test_models.h"

namespace rhetor::testing {
namespace {

using Task = BuildSpec::Task;

std::map<std::string, Tensor> text_to_text(std::int64_t seq, std::int64_t target_seq) {
  Tensor targets = random_ids(Shape{2, target_seq}, 61, 7);
  targets.set(target_seq - 1, -100);
  return {{"tokens", random_ids(Shape{2, seq}, 61, 5)},
          {"lengths", Tensor::of<std::int32_t>(Shape{2}, {static_cast<std::int32_t>(seq), static_cast<std::int32_t>(seq - 3)})},
          {"decoder_tokens", random_ids(Shape{2, target_seq}, 61, 6)},
          {"targets", targets}};
}

std::map<std::string, Tensor> with(std::map<std::string, Tensor> inputs, const Weights& weights) {
  inputs.insert(weights.begin(), weights.end());
  return inputs;
}

TEST(T5, MatchesTheOracle) {
  for (const bool tied : {true, false}) {
    ModelConfig config = tiny("t5");
    config.tied_embeddings = tied;
    const BuildSpec spec{.task = Task::loss, .batch = 2, .seq = 11, .target_seq = 6};
    const Graph graph = build_model(config, spec);
    expect_matches_oracle(graph, lively_weights(graph), text_to_text(11, 6));
  }
}

TEST(T5, PaddingIsNotSeenAndTheFutureNeither) {
  const ModelConfig config = tiny("t5");
  const Graph graph = build_model(config, {.task = Task::logits, .batch = 2, .seq = 9, .target_seq = 5});
  const Weights weights = lively_weights(graph);
  std::map<std::string, Tensor> inputs = text_to_text(9, 5);
  const auto logits = [&](const std::map<std::string, Tensor>& in) { return evaluate(graph, with(in, weights), RefPrecision::f64).outputs.at("logits"); };
  const Tensor first = logits(inputs);
  // Row 1 has 6 real tokens; what stands behind them does not matter.
  inputs["tokens"] = inputs["tokens"].clone();
  inputs["tokens"].set(9 + 7, 3);
  EXPECT_EQ(compare(logits(inputs), first).max_abs, 0);
  inputs["tokens"].set(9 + 5, (static_cast<int>(inputs["tokens"].at(9 + 5)) + 1) % 61);
  EXPECT_GT(compare(logits(inputs), first).max_abs, 1e-3);
  // The answer's last token changes its own logits only.
  inputs = text_to_text(9, 5);
  inputs["decoder_tokens"] = inputs["decoder_tokens"].clone();
  inputs["decoder_tokens"].set(4, (static_cast<int>(inputs["decoder_tokens"].at(4)) + 1) % 61);
  const Tensor later = logits(inputs);
  for (std::int64_t i = 0; i < first.elements(); ++i) {
    const bool last = i >= 4 * 61 && i < 5 * 61;
    EXPECT_TRUE(last || first.at(i) == later.at(i)) << i;
  }
  EXPECT_GT(compare(later, first).max_abs, 1e-3);
}

TEST(T5, NamesAreThoseOfHuggingFace) {
  const auto expected = expected_weights(tiny("t5"));
  for (const char* name : {"shared.weight", "encoder.block.1.layer.0.SelfAttention.q.weight", "encoder.block.0.layer.1.DenseReluDense.wi.weight",
                           "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "decoder.block.1.layer.1.EncDecAttention.o.weight",
                           "decoder.block.0.layer.2.layer_norm.weight", "decoder.final_layer_norm.weight"})
    EXPECT_TRUE(expected.contains(name)) << name;
  EXPECT_FALSE(expected.contains("encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"));
  EXPECT_EQ(model_preset("t5-small").parameters(), 60506624);  // as published
  EXPECT_THROW(build_model(tiny("t5"), {.task = Task::cached}), Error);
}

// The head on gathered rows computes the loss of the head on all rows.
TEST(MaskedRows, TheLossIsThatOfAllPlaces) {
  const ModelConfig config = tiny("bert");
  const Graph whole = build_model(config, {.task = Task::pretrain, .batch = 2, .seq = 8});
  const Graph gathered = build_model(config, {.task = Task::pretrain, .batch = 2, .seq = 8, .predictions = 3});
  const Weights weights = lively_weights(whole);
  std::map<std::string, Tensor> inputs = {{"tokens", random_ids(Shape{2, 8}, 61, 1)},
                                          {"segments", random_ids(Shape{2, 8}, 2, 2)},
                                          {"lengths", Tensor::of<std::int32_t>(Shape{2}, {8, 6})},
                                          {"next_sentence", Tensor::of<std::int32_t>(Shape{2}, {0, 1})}};
  std::map<std::string, Tensor> all = with(inputs, weights), some = all;
  all["targets"] = Tensor::of<std::int32_t>(Shape{2, 8}, {-100, 4, -100, -100, 9, -100, -100, -100, -100, -100, 7, -100, -100, -100, -100, -100});
  some["masked_positions"] = Tensor::of<std::int32_t>(Shape{2, 3}, {1, 4, 0, 2, 0, 0});
  some["targets"] = Tensor::of<std::int32_t>(Shape{2, 3}, {4, 9, -100, 7, -100, -100});
  const EvalResult a = evaluate(whole, all, RefPrecision::f64), b = evaluate(gathered, some, RefPrecision::f64);
  for (const char* name : {"loss", "mlm_loss", "nsp_loss"}) EXPECT_NEAR(a.outputs.at(name).at(0), b.outputs.at(name).at(0), 1e-12) << name;
  inputs["masked_positions"] = some["masked_positions"];
  inputs["targets"] = some["targets"];
  expect_matches_oracle(gathered, weights, inputs);
}

// Texts one after the other give the loss of texts in padded rows.
TEST(Unpadded, TheLossIsThatOfPaddedRows) {
  const ModelConfig config = tiny("bert");
  const BuildSpec rows{.task = Task::pretrain, .batch = 3, .seq = 8};
  BuildSpec flat = rows;
  flat.tokens = 15;
  flat.predictions = 4;
  const Graph padded = build_model(config, rows), graph = build_model(config, flat);
  const Weights weights = lively_weights(padded);
  const auto ints = [](Shape shape, const std::vector<std::int32_t>& values) { return Tensor::of<std::int32_t>(shape, values); };
  // Texts of 8, 5 and 0 tokens; two tokens of T are of no text.
  const Tensor tokens = random_ids(Shape{3, 8}, 61, 1), segments = random_ids(Shape{3, 8}, 2, 2);
  Tensor flat_tokens(DType::i32, Shape{15}), flat_segments(DType::i32, Shape{15}), positions(DType::i32, Shape{15}), places(DType::i32, Shape{15});
  Tensor place_tokens(DType::i32, Shape{3, 8}), targets(DType::i32, Shape{3, 8});
  for (std::int64_t i = 0; i < 24; ++i) targets.set(i, -100);
  targets.set(2, 7);
  targets.set(8 + 3, 9);
  std::int64_t t = 0;
  for (const std::int64_t at : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}) {
    flat_tokens.set(t, tokens.at(at));
    flat_segments.set(t, segments.at(at));
    positions.set(t, static_cast<double>(at % 8));
    places.set(t, static_cast<double>(at));
    place_tokens.set(at, static_cast<double>(t++));
  }
  const std::map<std::string, Tensor> a = {{"tokens", tokens}, {"segments", segments}, {"targets", targets}, {"lengths", ints(Shape{3}, {8, 5, 0})},
                                           {"next_sentence", ints(Shape{3}, {0, 1, -100})}};
  const std::map<std::string, Tensor> b = {{"tokens", flat_tokens}, {"segments", flat_segments}, {"positions", positions}, {"token_places", places},
                                           {"place_tokens", place_tokens}, {"lengths", ints(Shape{3}, {8, 5, 0})}, {"first_tokens", ints(Shape{3}, {0, 8, 0})},
                                           {"masked_positions", ints(Shape{4}, {2, 11, 0, 0})}, {"targets", ints(Shape{4}, {7, 9, -100, -100})},
                                           {"next_sentence", ints(Shape{3}, {0, 1, -100})}};
  const EvalResult want = evaluate(padded, with(a, weights), RefPrecision::f64), got = evaluate(graph, with(b, weights), RefPrecision::f64);
  for (const char* name : {"loss", "mlm_loss", "nsp_loss"}) EXPECT_NEAR(want.outputs.at(name).at(0), got.outputs.at(name).at(0), 1e-12) << name;
  expect_matches_oracle(graph, weights, b);
}

}  // namespace
}  // namespace rhetor::testing
