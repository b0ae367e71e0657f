// Models through the C interface: conversations in the model's own words, errors as statuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "generate/chat_window.h"
#include "generate/test_models.h"
#include "rhetor/rhetor.h"

namespace rhetor {
namespace {

using ::testing::HasSubstr;

int append(void* user, const char* piece, size_t bytes) {
  static_cast<std::string*>(user)->append(piece, bytes);
  return 1;
}

struct Answer {
  rhetor_status status;
  std::string text;
  rhetor_generation figures{sizeof(rhetor_generation), 0, 0, 0, 0, 0};
};

rhetor_sampling greedy(std::int64_t tokens) {
  rhetor_sampling out = rhetor_default_sampling();
  out.temperature = 0;
  out.max_tokens = tokens;
  return out;
}

Answer chat(const rhetor_model* model, const std::vector<rhetor_message>& messages, std::int64_t tokens = 12) {
  Answer out;
  const rhetor_sampling sampling = greedy(tokens);
  out.status = rhetor_chat(model, messages.data(), messages.size(), &sampling, append, &out.text, &out.figures);
  return out;
}

Answer continued(const rhetor_model* model, const std::string& prompt, std::int64_t tokens = 12) {
  Answer out;
  const rhetor_sampling sampling = greedy(tokens);
  out.status = rhetor_generate(model, prompt.c_str(), &sampling, append, &out.text, &out.figures);
  return out;
}

class CApi : public ::testing::Test {
 protected:
  CApi() { save_model(scratch_.path() / "m", *testing::toy_model()); }
  ~CApi() override { rhetor_model_close(model_); }
  rhetor_model* open() {
    rhetor_model_close(std::exchange(model_, nullptr));
    EXPECT_EQ(rhetor_model_open((scratch_.path() / "m").c_str(), &model_), RHETOR_OK) << rhetor_last_error();
    return model_;
  }
  testing::ScratchFolder scratch_;
  rhetor_model* model_ = nullptr;
};

TEST_F(CApi, AConversationIsInTheModelsOwnWords) {
  const std::vector<rhetor_message> talk = {{"system", "Be kind."}, {"user", "sea"}};
  const auto language = open_language_model(scratch_.path() / "m");
  const auto prompt = ChatWindow(*language).fit({{"system", "Be kind."}, {"user", "sea"}}, 12).tokens;
  const Answer usual = chat(open(), talk);
  ASSERT_EQ(usual.status, RHETOR_OK) << rhetor_last_error();
  EXPECT_EQ(usual.text, generate(*language, prompt, {.temperature = 0, .max_tokens = 12}).text);
  EXPECT_EQ(usual.figures.prompt_tokens, static_cast<std::int64_t>(prompt.size()));
  // The same folder with a template that is all plain text: what it renders is a prompt that anybody can write.
  write_file_atomic(scratch_.path() / "m/chat_template.json",
                    R"({"system": ["S", "|"], "user": ["U", "|"], "assistant": ["A", "|"], "open": "A"})");
  open();
  const Answer own = chat(model_, talk), same = continued(model_, "SBe kind.|Usea|A");
  ASSERT_EQ(own.status, RHETOR_OK) << rhetor_last_error();
  EXPECT_EQ(own.text, same.text);
  EXPECT_EQ(own.figures.prompt_tokens, same.figures.prompt_tokens);
}

TEST_F(CApi, WhatATemplateEndsAnAnswerWithEndsIt) {
  const auto model = testing::scripted("The sea is wide and the ship is small.");
  model->chat_template = std::make_shared<const ChatTemplate>(ChatTemplate{.name = "bare", .stop = {"ship"}});
  save_model(scratch_.path() / "m", *model);
  const Answer all = continued(open(), "s", 40), stopped = chat(model_, {{"user", "s"}}, 40);
  EXPECT_EQ(all.text, "The sea is wide and the ship is small.");
  EXPECT_EQ(stopped.status, RHETOR_OK) << rhetor_last_error();
  EXPECT_EQ(stopped.text, "The sea is wide and the ");
  EXPECT_EQ(stopped.figures.stopped, 1);
}

TEST_F(CApi, AConversationThatOutgrowsTheContextLosesItsOldestTurns) {
  open();
  std::vector<rhetor_message> talk;
  for (int i = 0; i < 40; ++i) talk.push_back({i % 2 ? "assistant" : "user", "the sea is wide"});
  talk.push_back({"user", "sea"});
  EXPECT_EQ(chat(model_, talk).status, RHETOR_OK) << rhetor_last_error();
  const std::string flood(1000, 'q');
  EXPECT_EQ(chat(model_, {{"user", flood.c_str()}}).status, RHETOR_RESOURCE);
  EXPECT_THAT(rhetor_last_error(), HasSubstr("the last message has"));
  EXPECT_EQ(continued(model_, flood).status, RHETOR_RESOURCE);
}

TEST_F(CApi, WrongArgumentsAreStatuses) {
  EXPECT_EQ(rhetor_model_open("no/such/folder", &model_), RHETOR_NOT_FOUND);
  EXPECT_EQ(rhetor_model_open(nullptr, &model_), RHETOR_INVALID);
  EXPECT_EQ(chat(nullptr, {{"user", "x"}}).status, RHETOR_INVALID);
  open();
  EXPECT_EQ(chat(model_, {}).status, RHETOR_INVALID);
  EXPECT_THAT(rhetor_last_error(), HasSubstr("messages"));
  EXPECT_EQ(chat(model_, {{"wizard", "x"}}).status, RHETOR_INVALID);
  EXPECT_EQ(chat(model_, {{"user", nullptr}}).status, RHETOR_INVALID);
  rhetor_sampling old = rhetor_default_sampling();
  old.size = 8;
  EXPECT_EQ(rhetor_generate(model_, "x", &old, nullptr, nullptr, nullptr), RHETOR_INVALID);
}

}  // namespace
}  // namespace rhetor
