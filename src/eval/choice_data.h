// Multiple-choice questions as the public sets write them, and the prompts under which their answers are scored.
//
// Layouts, recognised by the fields of a record (JSONL or a JSON list), and what a language model is asked:
//   query, choices, gold                      QUERY\nAnswer:                        " CHOICE"
//   ctx, endings, label (HellaSwag)           ACTIVITY: CTX                         " ENDING"
//   goal, sol1, sol2, label (PIQA)            Question: GOAL\nAnswer:               " SOLUTION"
//   question, choices, answer (MMLU), or A, B, C ... (CMMLU)
//                                             QUESTION\nA. ...\nB. ...\nAnswer:     " A"; one subject, one heading line
//   article, question, options, answer (RACE), passage, question, options, label (AGIEval), DREAM's and C3's lists
//                                             ARTICLE\n\nQuestion: ...\nAnswer:     " OPTION"
//   question, passage, answer true or false (BoolQ)
//                                             PASSAGE\nQuestion: ...?\nAnswer:      " no", " yes"
//   question.stem, question.choices, answerKey; question, choices.text, choices.label, answerKey (ARC, OpenBookQA)
//                                             Question: ...\nAnswer:                " CHOICE"
//   context_options, continuation, gold; sentence with _, option1, option2, answer (WinoGrande)
//                                             one prompt a choice, the same continuation (partial evaluation; Trinh and Le 2018)
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rhetor {

struct ChoiceItem {
  std::string subject;                       // few-shot examples are of the same one
  std::string passage, question;             // as written
  std::vector<std::string> choices;          // as written
  std::vector<std::string> prompts;          // one for all choices, or one each
  std::vector<std::string> continuations;    // with their leading space
  std::int64_t right = 0;
};

// One record; fails naming `where` and the fields found if it has none of the layouts, or its answer is none of the choices. A
// record of DREAM or C3 holds several questions.
void parse_choice(std::string_view json, const std::string& where, std::vector<ChoiceItem>& out);
// limit 0 = all.
std::vector<ChoiceItem> read_choices(const std::string& path, std::int64_t limit = 0);

}  // namespace rhetor
