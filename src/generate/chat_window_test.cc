#include "generate/chat_window.h"

#include <gmock/gmock.h>

#include "base/error.h"
#include "base/file.h"
#include "generate/plan_model.h"
#include "generate/test_models.h"

namespace rhetor::testing {
namespace {

using ::testing::HasSubstr;

std::string refusal(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::resource) << error.what();
    return error.what();
  }
  return "(accepted)";
}

class ChatWindowTest : public ::testing::Test {
 protected:
  LanguageModelPtr model_ = make_language_model(toy_model("llama", 1, 64));
  ChatWindow window_{*model_};
  std::vector<TokenId> tokens(const std::vector<ChatMessage>& messages) const {
    return model_->tokenizer()->encode(chat_template("rhetor").render(messages, true), true);
  }
};

TEST_F(ChatWindowTest, AConversationThatFitsStaysWhole) {
  const std::vector<ChatMessage> messages = {
      {"system", "Be kind."}, {"user", "The sea?"}, {"assistant", "It is wide."}, {"user", "Why?"}};
  const auto fit = window_.fit(messages, 4);
  EXPECT_EQ(fit.dropped, 0u);
  EXPECT_EQ(fit.tokens, tokens(messages));
}

TEST_F(ChatWindowTest, TheOldestTurnsGoAndTheSystemMessageStays) {
  std::vector<ChatMessage> messages = {{"system", "Be kind."}};
  for (int i = 0; i < 40; ++i) {
    messages.push_back({"user", fmt::format("qz {}", i)});
    messages.push_back({"assistant", fmt::format("xk {}", i)});
  }
  messages.push_back({"user", "last"});
  for (const std::int64_t answer : {1, 16, 32, 1000}) {
    SCOPED_TRACE(answer);
    const auto fit = window_.fit(messages, answer);
    const auto limit = 64 - std::min<std::int64_t>(answer, 32);
    EXPECT_LE(static_cast<std::int64_t>(fit.tokens.size()), limit);
    EXPECT_EQ(fit.dropped % 2, 0u);   // whole turns: the window begins with a question
    ASSERT_GT(fit.dropped, 0u);
    // As much as fits: one turn more would not.
    auto kept = messages;
    kept.erase(kept.begin() + 1, kept.begin() + 1 + static_cast<std::ptrdiff_t>(fit.dropped));
    EXPECT_EQ(fit.tokens, tokens(kept));
    kept.insert(kept.begin() + 1, messages.begin() + static_cast<std::ptrdiff_t>(fit.dropped) - 1,
                messages.begin() + static_cast<std::ptrdiff_t>(fit.dropped) + 1);
    EXPECT_GT(static_cast<std::int64_t>(tokens(kept).size()), limit);
  }
}

TEST_F(ChatWindowTest, ALongLastMessageMayUseTheAnswersRoom) {
  const std::vector<ChatMessage> messages = {{"user", "old"}, {"assistant", "old"}, {"user", std::string(55, 'q')}};
  const auto fit = window_.fit(messages, 32);
  EXPECT_EQ(fit.dropped, 2u);
  EXPECT_EQ(fit.tokens, tokens({messages.back()}));
}

TEST_F(ChatWindowTest, WhatCannotFitIsRefused) {
  for (const std::size_t bytes : {70u, 1u << 20}) {
    const std::string text(bytes, 'q');
    EXPECT_THAT(refusal([&] { window_.fit({{"user", "a"}, {"user", text}}, 4); }), HasSubstr("the last message has"));
    EXPECT_THAT(refusal([&] {
                  window_.fit({{"system", text}, {"user", "a"}}, 4);
                }),
                HasSubstr("the system message and the last"));
    EXPECT_THAT(refusal([&] { window_.encode(text); }), HasSubstr("context holds 64"));
  }
  EXPECT_EQ(window_.encode("The sea"), model_->tokenizer()->encode("The sea"));
  EXPECT_EQ(window_.fit({{"system", "alone"}}, 4).tokens, tokens({{"system", "alone"}}));
  EXPECT_THROW(window_.fit({}, 4), Error);
}

TEST_F(ChatWindowTest, TextsThatEndAnAnswerBecomeStopStrings) {
  EXPECT_THAT(window_.conversing({.stop = {"x"}}).stop, ::testing::ElementsAre("x"));  // <|end|> is a token
  const auto plain =
      make_language_model(toy_model(), {.chat_template = std::make_shared<const ChatTemplate>(chat_template("plain"))});
  EXPECT_THAT(ChatWindow(*plain).conversing({.stop = {"x"}}).stop, ::testing::ElementsAre("x", "\nUser:"));
}

TEST(ModelsChatTemplate, ItBringsItsOwn) {
  ScratchFolder scratch;
  const auto folder = scratch.path() / "m";
  save_model(folder, *toy_model());
  EXPECT_EQ(open_language_model(folder)->chat_template()->name, "rhetor");
  write_file_atomic(
      folder / "tokenizer_config.json",
      R"({"eos_token": {"content": "</s>"}, "chat_template": [{"name": "default", "template": "{{ '<|im_start|>' }}"}]})");
  EXPECT_EQ(open_language_model(folder)->chat_template()->name, "chatml");
  write_file_atomic(folder / "chat_template.jinja", "{{ '[INST] ' }}");
  EXPECT_EQ(open_language_model(folder)->chat_template()->name, "mistral");
  write_file_atomic(folder / "chat_template.json",
                    R"({"name": "mine", "system": ["S", ""], "user": ["U", ""], "assistant": ["A", ""], "open": "A"})");
  const auto model = open_language_model(folder);
  EXPECT_EQ(model->chat_template()->name, "mine");
  EXPECT_EQ(ChatWindow(*model).fit({{"user", "sea"}}, 4).tokens, model->tokenizer()->encode("UseaA", true));
  compile_to_plan(folder, scratch.path() / "m.plan", {.prefill_buckets = {16}}, {1});
  EXPECT_EQ(open_language_model(scratch.path() / "m.plan")->chat_template()->name, "mine");
  // It goes where the weights go.
  save_model(scratch.path() / "copy", *load_model(folder));
  EXPECT_EQ(open_language_model(scratch.path() / "copy")->chat_template()->name, "mine");
  save_model(folder, *toy_model());
  EXPECT_EQ(open_language_model(folder)->chat_template()->name, "mine");
  write_file_atomic(folder / "chat_template.json", "{");
  EXPECT_THROW(open_language_model(folder), Error);
}

}  // namespace
}  // namespace rhetor::testing
