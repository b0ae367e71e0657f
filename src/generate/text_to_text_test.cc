#include "generate/text_to_text.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace rhetor {
namespace {

std::shared_ptr<Model> small_t5() {
  int i = 0;
  auto model = std::make_shared<Model>();
  model->tokenizer = train_byte_bpe([&](std::string& d) { d = "the boats of the harbour are home"; return i++ < 3; }, {.vocab_size = 300});
  model->config = {.family = "t5", .vocab = model->tokenizer->vocab_size() + 100, .layers = 1, .hidden = 16, .heads = 2, .kv_heads = 2, .ffn = 32, .context = 32};
  model->weights = init_weights(build_model(model->config, {}), 3);
  model->name = "small";
  return model;
}

TEST(TextToText, SentinelsAreWritten) {
  const TextToText model(small_t5());
  const std::string text = "the boats <extra_id_0> harbour <extra_id_12> home <extra_id_x> <extra_id_900>";
  std::vector<TokenId> ids = model.encode(text);
  ids.pop_back();  // the end
  EXPECT_EQ(model.decode(ids), text);
}

TEST(TextToText, AnAnswerDoesNotDependOnTheGraphsLengths) {
  TextToText a(small_t5()), b(small_t5());
  const std::string text = "the boats <extra_id_0> home";
  const std::string answer = a.answer(text, 20);
  EXPECT_EQ(b.answer(text, 3), a.answer(text, 3));
  EXPECT_EQ(answer.substr(0, 3), b.answer(text, 40).substr(0, 3));
  EXPECT_THROW(a.answer(std::string(200, 'x'), 4), Error);
}

TEST(TextToText, OtherFamiliesAreRefused) {
  auto model = small_t5();
  model->config.family = "gpt2";
  EXPECT_THROW(TextToText{model}, Error);
}

}  // namespace
}  // namespace rhetor
