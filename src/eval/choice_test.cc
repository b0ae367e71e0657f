#include "eval/choice.h"

#include <gmock/gmock.h>

#include "eval/test_encoders.h"
#include "generate/test_models.h"

namespace rhetor::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ChoiceItem parse(const std::string& json) {
  std::vector<ChoiceItem> out;
  parse_choice(json, "'f' line 3", out);
  EXPECT_EQ(out.size(), 1u);
  return out.at(0);
}

TEST(ChoiceData, ReadsThePublicLayouts) {
  ChoiceItem i = parse(R"({"query": "Question: What is red?", "choices": ["sky", "blood"], "gold": 1})");
  EXPECT_THAT(i.prompts, ElementsAre("Question: What is red?\nAnswer:"));
  EXPECT_THAT(i.continuations, ElementsAre(" sky", " blood"));
  EXPECT_EQ(i.right, 1);

  i = parse(R"({"ctx": "He runs.", "activity_label": "Sport", "endings": ["a", "b", "c"], "label": "2"})");
  EXPECT_THAT(i.prompts, ElementsAre("Sport: He runs."));
  EXPECT_EQ(i.right, 2);

  i = parse(R"({"goal": "Boil water", "sol1": "fire", "sol2": "ice", "label": 0})");
  EXPECT_THAT(i.prompts, ElementsAre("Question: Boil water\nAnswer:"));
  EXPECT_THAT(i.choices, ElementsAre("fire", "ice"));

  // A choice that looks like the answer's letter or number must not win over the position.
  i = parse(R"({"subject": "high_school", "question": "2 + 2?", "choices": ["B", "4", "2", "1"], "answer": "B"})");
  EXPECT_THAT(i.prompts, ElementsAre("2 + 2?\nA. B\nB. 4\nC. 2\nD. 1\nAnswer:"));
  EXPECT_THAT(i.continuations, ElementsAre(" A", " B", " C", " D"));
  EXPECT_EQ(i.right, 1);
  i = parse(R"({"query": "q", "choices": ["2", "1", "0"], "gold": 2})");
  EXPECT_EQ(i.right, 2);

  i = parse(R"({"subject": "agronomy", "question": "q", "A": "x", "B": "y", "C": "z", "D": "w", "answer": "C"})");
  EXPECT_EQ(i.choices.size(), 4u);
  EXPECT_EQ(i.right, 2);

  i = parse(R"({"article": "Long ago.", "question": "When?", "options": ["now", "then"], "answer": "B"})");
  EXPECT_THAT(i.prompts, ElementsAre("Long ago.\n\nQuestion: When?\nAnswer:"));
  EXPECT_EQ(i.passage, "Long ago.");

  i = parse(
      R"({"task": "sat", "passage": null, "question": "When?", "options": ["(A)now", "(B)then"], "label": "A", "answer": null})");
  EXPECT_THAT(i.prompts, ElementsAre("Question: When?\nAnswer:"));

  i = parse(R"({"question": "is it wet", "passage": "Rain.", "answer": true})");
  EXPECT_THAT(i.prompts, ElementsAre("Rain.\nQuestion: is it wet?\nAnswer:"));
  EXPECT_THAT(i.continuations, ElementsAre(" no", " yes"));
  EXPECT_EQ(i.right, 1);

  i = parse(
      R"({"question": {"stem": "Hot?", "choices": [{"text": "ice", "label": "1"}, {"text": "sun", "label": "2"}]}, "answerKey": "2"})");
  EXPECT_EQ(i.right, 1);
  i = parse(R"({"question": "Hot?", "choices": {"text": ["sun", "ice"], "label": ["A", "B"]}, "answerKey": "A"})");
  EXPECT_EQ(i.right, 0);

  i = parse(R"({"context_options": ["so Ann", "so Bea"], "continuation": "won.", "gold": 1})");
  EXPECT_THAT(i.prompts, ElementsAre("so Ann", "so Bea"));
  EXPECT_THAT(i.continuations, ElementsAre(" won.", " won."));
  i = parse(R"({"sentence": "The cup, not the pot, so the _ broke.", "option1": "cup", "option2": "pot", "answer": "2"})");
  EXPECT_THAT(i.prompts, ElementsAre("The cup, not the pot, so the cup", "The cup, not the pot, so the pot"));
  EXPECT_THAT(i.continuations, ElementsAre(" broke.", " broke."));
  EXPECT_EQ(i.right, 1);

  std::vector<ChoiceItem> several;
  parse_choice(R"([["M: Hi.", "W: Ho."], [{"question": "Who?", "choice": ["M", "W"], "answer": "W"},
                   {"question": "What?", "choice": ["x", "y"], "answer": "x"}], "14-3"])", "here", several);
  ASSERT_EQ(several.size(), 2u);
  EXPECT_EQ(several[0].prompts[0], "M: Hi.\nW: Ho.\n\nQuestion: Who?\nAnswer:");
  EXPECT_EQ(several[0].right, 1);
  EXPECT_EQ(several[1].right, 0);
}

TEST(ChoiceData, SaysWhatIsWrong) {
  const auto error = [](const std::string& json) { return error_of([&] { parse(json); }); };
  EXPECT_THAT(error(R"({"text": "a", "label": 1})"), HasSubstr("the fields label, text"));
  EXPECT_THAT(error(R"({"query": "q", "choices": ["a", "b"], "gold": 2})"),
              HasSubstr("\"gold\" is 2, which is none of the 2 choices"));
  EXPECT_THAT(error(R"({"query": "q", "choices": "a", "gold": 0})"), HasSubstr("\"choices\" must be a list"));
  EXPECT_THAT(error(R"({"query": "q", "choices": ["a"], "gold": 0})"), HasSubstr("at least 2 choices"));
  EXPECT_THAT(error(R"({"query": 7.5, "choices": ["a", ["b"]], "gold": 0})"), HasSubstr("must be a text, found array"));
  EXPECT_THAT(error(R"({"sentence": "no gap", "option1": "a", "option2": "b", "answer": "1"})"), HasSubstr("has no '_'"));
  EXPECT_THAT(error("7"), HasSubstr("'f' line 3: expected a JSON object"));
  const TempFile broken("{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": 0}\n{oops\n", ".jsonl"), empty("\n", ".jsonl");
  EXPECT_THAT(error_of([&] { read_choices(broken.path()); }), HasSubstr("line 2: not valid JSON"));
  EXPECT_THAT(error_of([&] { read_choices(empty.path()); }), HasSubstr("holds no records"));
  EXPECT_EQ(read_choices(broken.path(), 1).size(), 1u);
}

std::vector<ChoiceItem> toy_items() {
  std::vector<ChoiceItem> out;
  for (const char* json : {R"({"query": "The sea", "choices": ["is wide", "is small and deep"], "gold": 0})",
                           R"({"query": "the lamp", "choices": ["bright", "and", "is deep"], "gold": 2})",
                           R"({"query": "ship", "choices": ["small", "wide"], "gold": 1})"})
    out.push_back(parse(json));
  return out;
}

TEST(Choice, ShotsAreSolvedQuestionsOfTheSubject) {
  auto items = toy_items();
  EXPECT_EQ(few_shot_prefix(items, 0, {}), "");
  EXPECT_EQ(few_shot_prefix(items, 0, {.shots = 1}), "the lamp\nAnswer: is deep\n\n");   // not the question itself
  EXPECT_EQ(few_shot_prefix(items, 2, {.shots = 2}), "The sea\nAnswer: is wide\n\nthe lamp\nAnswer: is deep\n\n");
  EXPECT_THAT(error_of([&] { few_shot_prefix(items, 0, {.shots = 3}); }), HasSubstr("there are only 2"));
  items[1].subject = items[2].subject = "deep_sea";
  EXPECT_EQ(few_shot_prefix(items, 2, {.shots = 1}),
            "The following are multiple choice questions (with answers) about deep sea.\n\nthe lamp\nAnswer: is deep\n\n");
  EXPECT_THAT(error_of([&] { few_shot_prefix(items, 0, {.shots = 1}); }), HasSubstr("only 0"));
  ChoiceOptions elsewhere{.shots = 1, .examples = {toy_items()[2]}};
  EXPECT_EQ(few_shot_prefix(items, 0, elsewhere), "ship\nAnswer: wide\n\n");
}

TEST(Choice, FollowsTheLogLikelihoods) {
  const auto model = make_language_model(toy_model("gpt2", 3, 64));
  const auto items = toy_items();
  // The same question by question, written out.
  double right = 0, per_byte = 0, per_token = 0;
  for (const auto& item : items) {
    std::size_t best = 0, best_byte = 0, best_token = 0;
    std::vector<double> sum, byte, token;
    for (const auto& continuation : item.continuations) {
      const Continuation c = split_continuation(*model->tokenizer(), item.prompts[0], continuation);
      sum.push_back(score(*model, {&c, 1})[0].logprob);
      byte.push_back(sum.back() / static_cast<double>(continuation.size()));
      token.push_back(sum.back() / static_cast<double>(c.tokens.size()));
      const std::size_t at = sum.size() - 1;
      if (sum[at] > sum[best]) best = at;
      if (byte[at] > byte[best_byte]) best_byte = at;
      if (token[at] > token[best_token]) best_token = at;
    }
    const auto truth = static_cast<std::size_t>(item.right);
    right += best == truth, per_byte += best_byte == truth, per_token += best_token == truth;
  }
  for (const std::int64_t slots : {1, 8}) {
    std::int64_t told = 0;
    const EvalReport report =
        evaluate_choice(*model, items, {.slots = slots, .progress = [&](std::int64_t done, std::int64_t) { told = done; }});
    EXPECT_EQ(report.n, 3);
    EXPECT_EQ(told, 3);
    EXPECT_DOUBLE_EQ(report.figure("accuracy"), right / 3);
    EXPECT_DOUBLE_EQ(report.figure("accuracy_per_byte"), per_byte / 3);
    EXPECT_DOUBLE_EQ(report.figure("accuracy_per_token"), per_token / 3);
    EXPECT_NEAR(report.figure("chance"), (0.5 + 1.0 / 3 + 0.5) / 3, 1e-12);
    EXPECT_EQ(report.predictions.size(), 3u);
  }
  // Two shots do not fit 20 tokens: the beginning of the prompt is left out, and that is counted.
  const auto small = make_language_model(toy_model("gpt2", 3, 20));
  EXPECT_EQ(evaluate_choice(*small, items, {.shots = 2}).figure("cut"), 7);   // choices of all three questions
}

TEST(Choice, EncodersChoose) {
  const EvalReport report = evaluate_choice(FakeEncoder(), toy_items());   // the longest choice: 1, 2, 0
  EXPECT_DOUBLE_EQ(report.figure("accuracy"), 1.0 / 3);
}

}  // namespace
}  // namespace rhetor::testing
