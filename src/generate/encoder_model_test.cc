// Answers of encoder models: what each head gives, and that neighbours, batches and threads change nothing.
#include "generate/encoder_model.h"

#include <gmock/gmock.h>

#include <cmath>
#include <thread>

#include "base/error.h"
#include "generate/test_models.h"

namespace rhetor::testing {
namespace {

using ::testing::HasSubstr;

std::shared_ptr<Model> task_model(const std::string& task, std::int64_t labels, const std::string& family = "bert",
                                  std::int64_t context = 48) {
  auto model = std::make_shared<Model>();
  model->tokenizer = toy_tokenizer();
  ModelConfig& c = model->config;
  c = size_dial(family, 2, model->tokenizer->vocab_size());
  c.hidden = 32, c.heads = 4, c.kv_heads = family == "llama" ? 2 : 4, c.ffn = 64, c.context = context;
  c.task = task, c.labels = labels;
  const TaskKind* kind = find_task_kind(task);
  model->weights = init_weights(build_model(c, {.task = kind ? kind->task : BuildSpec::Task::hidden}), 1);
  std::uint64_t stream = 0;
  for (auto& [name, tensor] : model->weights) {
    Rng rng(2, ++stream);
    for (float& x : tensor.data<float>()) x += static_cast<float>(0.2 * rng.normal());
  }
  model->name = "toy";
  return model;
}

std::vector<std::string> texts() {
  return {"The sea is wide", "a lamp", "", "The ship is small. The sea is deep and the lamp is bright, and so it goes on and on.",
          "The sea is wide", "z"};
}

TEST(EncoderModel, EmbeddingsHaveLengthOneAndDoNotDependOnNeighbours) {
  for (const char* family : {"bert", "gpt2", "llama"}) {
    const EncoderModelPtr model = make_encoder_model(task_model("", 0, family));
    const auto together = model->embed(texts());
    ASSERT_EQ(together.size(), 6u);
    for (std::size_t i = 0; i < together.size(); ++i) {
      double length = 0;
      for (const float x : together[i]) length += double{x} * x;
      EXPECT_NEAR(length, 1, 1e-5);
      const auto alone = model->embed(std::vector<std::string>{texts()[i]});
      for (std::size_t k = 0; k < alone[0].size(); ++k) EXPECT_NEAR(alone[0][k], together[i][k], 1e-5) << family << " text " << i;
    }
  }
}

TEST(EncoderModel, LabelsComeBestFirstAndSumToOne) {
  auto toy = task_model("classification", 3);
  toy->config.label_names = {"calm", "rough", "dark"};
  const EncoderModelPtr model = make_encoder_model(toy);
  const std::vector<TextPair> pairs{
      {"The sea", "is wide"},
      {"The sea", ""},
      {"A very long text about the sea and the sea and the sea", "and the lamp and the lamp and more of it again"}};
  const auto labels = model->classify(pairs);
  ASSERT_EQ(labels.size(), 3u);
  for (const auto& all : labels) {
    ASSERT_EQ(all.size(), 3u);
    EXPECT_GE(all[0].score, all[1].score);
    EXPECT_NEAR(all[0].score + all[1].score + all[2].score, 1, 1e-6);
  }
  EXPECT_TRUE(model->can_classify());
  EXPECT_FALSE(model->can_answer());
  EXPECT_THAT([&] { model->answer("who", "the sea", {}); },
              ::testing::ThrowsMessage<Error>(HasSubstr("cannot answer questions")));
  const auto value = make_encoder_model(task_model("regression", 1))->classify(pairs);
  ASSERT_EQ(value[0].size(), 1u);
  EXPECT_EQ(value[0][0].name, "score");
}

TEST(EncoderModel, AnswersAreSpansOfThePassage) {
  const EncoderModelPtr model = make_encoder_model(task_model("span", 0));
  std::string passage;
  for (int i = 0; i < 30; ++i) passage += fmt::format("The sea {} is wide. ", i);  // several windows
  AskOptions options;
  options.allow_no_answer = false;
  options.best = 3;
  options.stride = 8;
  const auto found = model->answer("where is it", passage, options);
  ASSERT_EQ(found.size(), 3u);
  for (const SpanAnswer& a : found) {
    EXPECT_EQ(a.text, passage.substr(static_cast<std::size_t>(a.begin), static_cast<std::size_t>(a.end - a.begin)));
    EXPECT_FALSE(a.text.empty());
    EXPECT_LE(a.score, found[0].score);
  }
  options.allow_no_answer = true;
  options.no_answer_threshold = found[0].no_answer_gap - 1;
  EXPECT_EQ(model->answer("where is it", passage, options)[0].text, "");
  options.no_answer_threshold = found[0].no_answer_gap + 1;
  EXPECT_EQ(model->answer("where is it", passage, options)[0].text, found[0].text);
  EXPECT_EQ(model->answer("where is it", " \n", options)[0].text, "");
  EXPECT_THROW(model->answer(std::string(500, 'q'), passage, options), Error);  // no room for the passage
}

TEST(EncoderModel, TagsEveryWordOfALongText) {
  const EncoderModelPtr model = make_encoder_model(task_model("tagging", 4));
  std::string text;
  for (int i = 0; i < 60; ++i) text += fmt::format("word{} ", i);
  const auto tags = model->tag(std::vector<std::string>{text, "one, two."});
  ASSERT_EQ(tags[0].size(), 60u);
  EXPECT_EQ(text.substr(static_cast<std::size_t>(tags[0][59].begin), 6), "word59");
  EXPECT_EQ(tags[1].size(), 4u);
  EXPECT_GT(tags[0][0].label.score, 0.2);
}

TEST(EncoderModel, RanksByHeadOrByCosine) {
  const std::vector<std::string> documents{"The sea is wide", "a lamp", "The ship"};
  const auto scores = make_encoder_model(task_model("ranking", 1))->rank("the sea", documents);
  ASSERT_EQ(scores.size(), 3u);
  const auto cosines = make_encoder_model(task_model("", 0))->rank("a lamp", documents);
  EXPECT_NEAR(cosines[1], 1, 1e-5);
  EXPECT_LT(cosines[0], 1);
  const EncoderModelPtr chooser = make_encoder_model(task_model("choice", 1));
  const auto chances = chooser->choose({"The sea", "is it"}, documents);
  EXPECT_NEAR(chances[0] + chances[1] + chances[2], 1, 1e-6);
  EXPECT_THROW(make_encoder_model(task_model("ranking", 1))->choose({"a", ""}, documents), Error);
}

// "x" [n,k] or [k,n] becomes "x.int8" [n,k] and "x.scale" [n], as compression does.
std::shared_ptr<Model> as_int8(const Model& model) {
  auto out = std::make_shared<Model>(model);
  out->config.quantization = "int8";
  for (const auto& [name, transposed] : int8_weights(model.config)) {
    const auto found = model.weights.find(name);
    if (found == model.weights.end()) continue;
    const Tensor& w = found->second;
    const std::int64_t n = w.shape()[transposed ? 0 : 1], k = w.shape()[transposed ? 1 : 0];
    Tensor q(DType::i8, Shape{n, k}), scale(DType::f32, Shape{n});
    const auto at = [&](std::int64_t row, std::int64_t column) { return w.at(transposed ? row * k + column : column * n + row); };
    for (std::int64_t row = 0; row < n; ++row) {
      double most = 1e-9;
      for (std::int64_t column = 0; column < k; ++column) most = std::max(most, std::abs(at(row, column)));
      scale.set(row, most / 127);
      for (std::int64_t column = 0; column < k; ++column) q.set(row * k + column, std::nearbyint(at(row, column) * 127 / most));
    }
    out->weights.erase(name);
    out->weights.emplace(name + ".int8", q);
    out->weights.emplace(name + ".scale", scale);
  }
  return out;
}

TEST(EncoderModel, Int8AnswersAreClose) {
  for (const char* family : {"bert", "gpt2"}) {
    const auto toy = task_model("classification", 3, family);
    const auto small = as_int8(*toy);
    ASSERT_LT(small->weights.size(), toy->weights.size() * 2);
    ASSERT_NE(small->weights.size(), toy->weights.size());
    const std::vector<TextPair> pairs{{"The sea", "is wide"}, {"a lamp", ""}};
    const auto exact = make_encoder_model(toy)->classify(pairs), close = make_encoder_model(small)->classify(pairs);
    for (std::size_t i = 0; i < pairs.size(); ++i)
      for (const Label& label : close[i])
        for (const Label& same : exact[i])
          if (same.name == label.name) {
            EXPECT_NEAR(label.score, same.score, 0.08) << family;
          }
    const auto a = make_encoder_model(toy)->embed(texts()), b = make_encoder_model(small)->embed(texts());
    for (std::size_t i = 0; i < a.size(); ++i) {
      double cosine = 0;
      for (std::size_t k = 0; k < a[i].size(); ++k) cosine += double{a[i][k]} * b[i][k];
      EXPECT_GT(cosine, 0.99) << family;
    }
  }
}

TEST(EncoderModel, ThreadsShareOneModel) {
  const EncoderModelPtr model = make_encoder_model(task_model("classification", 3));
  const std::vector<TextPair> pair{{"The sea", "is wide"}};
  const double expected = model->classify(pair)[0][0].score;
  std::vector<std::thread> threads;
  std::vector<double> got(4);
  for (std::size_t t = 0; t < got.size(); ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 20; ++i) {
        got[t] = model->classify(pair)[0][0].score;
        model->classify(std::vector<TextPair>(static_cast<std::size_t>(i % 5 + 1), {"lamp", ""}));
      }
    });
  for (auto& thread : threads) thread.join();
  for (const double score : got) EXPECT_NEAR(score, expected, 1e-6);
}

TEST(EncoderModel, FoldersWithoutATokenizerAreRefused) {
  auto toy = task_model("classification", 2);
  toy->tokenizer = nullptr;
  EXPECT_THROW(make_encoder_model(toy), Error);
  EXPECT_THROW(open_encoder_model("/nonexistent"), Error);
}

}  // namespace
}  // namespace rhetor::testing
