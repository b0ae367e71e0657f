#include "eval/choice_data.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "eval/report.h"

namespace rhetor {
namespace {

using Json = nlohmann::json;

// A record with the place it comes from, for messages.
struct Record {
  const Json& json;
  const std::string& where;

  bool has(std::initializer_list<const char*> fields) const {
    return std::all_of(fields.begin(), fields.end(), [&](const char* f) { return json.contains(f); });
  }
  std::string text(const char* field) const { return text(json.at(field), field); }
  std::string text(const Json& value, const char* field) const {
    if (value.is_string()) return value.get<std::string>();
    if (value.is_number() || value.is_boolean()) return value.dump();
    fail("{}: \"{}\" must be a text, found {}", where, field, value.type_name());
  }
  std::vector<std::string> texts(const Json& list, const char* field) const {
    if (!list.is_array() || list.empty()) fail("{}: \"{}\" must be a list of at least one text", where, field);
    std::vector<std::string> out;
    for (const Json& item : list) out.push_back(text(item, field));
    return out;
  }
  // A number from 0, a letter from A, a number from 1 written as text, or one of `labels`.
  std::int64_t answer(const char* field, std::size_t choices, const std::vector<std::string>& labels = {}) const {
    const Json& value = json.at(field);
    std::int64_t index = -1;
    if (value.is_number_integer()) {
      index = value.get<std::int64_t>();
    } else if (value.is_string()) {
      const std::string& word = value.get_ref<const std::string&>();
      const auto label = std::find(labels.begin(), labels.end(), word);
      if (label != labels.end()) index = label - labels.begin();
      else if (word.size() == 1 && std::isalpha(static_cast<unsigned char>(word[0])) != 0)
        index = std::toupper(static_cast<unsigned char>(word[0])) - 'A';
      else if (word.size() == 1 && std::isdigit(static_cast<unsigned char>(word[0])) != 0) index = word[0] - '0';
    }
    if (index < 0 || index >= static_cast<std::int64_t>(choices))
      fail("{}: \"{}\" is {}, which is none of the {} choices (expected a number from 0 or a letter from A)", where, field,
           value.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 60), choices);
    return index;
  }
};

std::vector<std::string> spaced(const std::vector<std::string>& choices) {
  std::vector<std::string> out;
  for (const auto& choice : choices) out.push_back(" " + choice);
  return out;
}

// "Question: ...\nAnswer:" after the passage, if there is one; the choices themselves continue it.
ChoiceItem asked(std::string passage, std::string question, std::vector<std::string> choices, std::int64_t right) {
  ChoiceItem item;
  item.prompts = {fmt::format("{}{}Question: {}\nAnswer:", passage, passage.empty() ? "" : "\n\n", question)};
  item.continuations = spaced(choices);
  item.passage = std::move(passage), item.question = std::move(question), item.choices = std::move(choices), item.right = right;
  return item;
}

// The choices stand in the prompt; their letters continue it.
ChoiceItem lettered(std::string subject, std::string question, std::vector<std::string> choices, std::int64_t right) {
  ChoiceItem item;
  std::string prompt = question;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    const char letter = static_cast<char>('A' + i);
    prompt += fmt::format("\n{}. {}", letter, choices[i]);
    item.continuations.push_back(fmt::format(" {}", letter));
  }
  item.prompts = {prompt + "\nAnswer:"};
  item.subject = std::move(subject), item.question = std::move(question), item.choices = std::move(choices), item.right = right;
  return item;
}

// One prompt a choice, the same text after it.
ChoiceItem partial(const std::string& before, std::vector<std::string> options, const std::string& after, std::int64_t right) {
  ChoiceItem item;
  for (const auto& option : options) {
    item.prompts.push_back(before + option);
    item.continuations.push_back(after);
  }
  item.question = before + "_" + after, item.choices = std::move(options), item.right = right;
  return item;
}

ChoiceItem hellaswag(const Record& r) {
  ChoiceItem item;
  item.choices = r.texts(r.json.at("endings"), "endings");
  item.right = r.answer("label", item.choices.size());
  item.question = r.text("ctx");
  item.prompts = {(r.has({"activity_label"}) ? r.text("activity_label") + ": " : "") + item.question};
  item.continuations = spaced(item.choices);
  return item;
}

// WikiHow and Winograd forms: "Sarah was better than Maria so _ got the easier cases."
ChoiceItem winogrande(const Record& r) {
  const std::string sentence = r.text("sentence");
  const std::size_t gap = sentence.find('_');
  if (gap == std::string::npos) fail("{}: \"sentence\" has no '_' for the options to stand in", r.where);
  const std::string answer = r.text("answer");
  if (answer != "1" && answer != "2") fail("{}: \"answer\" must be \"1\" or \"2\", found \"{}\"", r.where, answer.substr(0, 20));
  return partial(sentence.substr(0, gap), {r.text("option1"), r.text("option2")}, sentence.substr(gap + 1), answer == "2");
}

// ARC and OpenBookQA: choices with labels of their own ("A" to "E", or "1" to "4").
ChoiceItem labelled(const Record& r, const Json& question, const Json& choices) {
  std::vector<std::string> texts, labels;
  if (choices.is_object() && choices.contains("text") && choices.contains("label")) {
    texts = r.texts(choices.at("text"), "choices.text"), labels = r.texts(choices.at("label"), "choices.label");
  } else if (choices.is_array()) {
    for (const Json& choice : choices) {
      if (!choice.is_object() || !choice.contains("text") || !choice.contains("label"))
        fail("{}: each of \"choices\" must have \"text\" and \"label\"", r.where);
      texts.push_back(r.text(choice.at("text"), "text")), labels.push_back(r.text(choice.at("label"), "label"));
    }
  }
  if (texts.empty() || texts.size() != labels.size())
    fail("{}: \"choices\" must hold as many texts as labels, at least one", r.where);
  const std::int64_t right = r.answer("answerKey", texts.size(), labels);
  return asked("", r.text(question, "question"), std::move(texts), right);
}

// DREAM and C3: [[lines of a dialogue or text], [{question, choice, answer}, ...], id]
void dialogue(const Record& r, std::vector<ChoiceItem>& out) {
  std::string passage;
  for (const auto& line : r.texts(r.json[0], "the passage")) passage += (passage.empty() ? "" : "\n") + line;
  for (const Json& question : r.json[1]) {
    if (!question.is_object() || !question.contains("question") || !question.contains("choice") || !question.contains("answer"))
      fail("{}: each question must have \"question\", \"choice\" and \"answer\"", r.where);
    auto choices = r.texts(question.at("choice"), "choice");
    const auto right = std::find(choices.begin(), choices.end(), r.text(question.at("answer"), "answer"));
    if (right == choices.end()) fail("{}: the \"answer\" is none of the choices", r.where);
    const std::int64_t index = right - choices.begin();
    out.push_back(asked(passage, r.text(question.at("question"), "question"), std::move(choices), index));
  }
}

ChoiceItem parse_object(const Record& r) {
  const Json& json = r.json;
  if (r.has({"context_options", "continuation", "gold"})) {
    auto options = r.texts(json.at("context_options"), "context_options");
    const std::int64_t right = r.answer("gold", options.size());
    return partial("", std::move(options), " " + r.text("continuation"), right);
  }
  if (r.has({"sentence", "option1", "option2", "answer"})) return winogrande(r);
  if (r.has({"ctx", "endings", "label"})) return hellaswag(r);
  if (r.has({"goal", "sol1", "sol2", "label"}))
    return asked("", r.text("goal"), {r.text("sol1"), r.text("sol2")}, r.answer("label", 2));
  if (r.has({"query", "choices", "gold"})) {
    auto choices = r.texts(json.at("choices"), "choices");
    const std::int64_t right = r.answer("gold", choices.size());
    ChoiceItem item = asked("", r.text("query"), std::move(choices), right);
    item.prompts = {item.question + "\nAnswer:"};   // the query brings its own "Question:"
    return item;
  }
  if (r.has({"question", "answerKey"})) {
    const Json& question = json.at("question");
    if (question.is_object() && question.contains("stem") && question.contains("choices"))
      return labelled(r, question.at("stem"), question.at("choices"));
    if (json.contains("choices")) return labelled(r, question, json.at("choices"));
  }
  const std::string passage = json.contains("passage") && json.at("passage").is_string() ? r.text("passage") : "";
  for (const char* answer : {"answer", "label"}) {
    if (!r.has({"question", "options", answer}) || json.at(answer).is_null()) continue;
    auto options = r.texts(json.at("options"), "options");
    const std::int64_t right = r.answer(answer, options.size());
    return asked(json.contains("article") ? r.text("article") : passage, r.text("question"), std::move(options), right);
  }
  const std::string subject = json.contains("subject") ? r.text("subject") : "";
  if (r.has({"question", "choices", "answer"}) && json.at("choices").is_array()) {
    auto choices = r.texts(json.at("choices"), "choices");
    const std::int64_t right = r.answer("answer", choices.size());
    return lettered(subject, r.text("question"), std::move(choices), right);
  }
  if (r.has({"question", "A", "B", "answer"})) {
    std::vector<std::string> choices;
    for (char letter = 'A'; json.contains(std::string(1, letter)); ++letter)
      choices.push_back(r.text(std::string(1, letter).c_str()));
    const std::int64_t right = r.answer("answer", choices.size());
    return lettered(subject, r.text("question"), std::move(choices), right);
  }
  if (r.has({"question", "passage", "answer"}) && json.at("answer").is_boolean()) {
    const bool yes = json.at("answer").get<bool>();
    ChoiceItem item = asked(passage, r.text("question"), {"no", "yes"}, yes);
    item.prompts = {fmt::format("{}\nQuestion: {}?\nAnswer:", passage, item.question)};
    return item;
  }
  std::string fields;
  for (const auto& [key, value] : json.items()) {
    if (fields.size() < 200) fields += (fields.empty() ? "" : ", ") + key.substr(0, 40);
  }
  fail(
      "{}: not a multiple-choice layout that is known (docs/evaluation.md lists them); the record has the fields {}. Name yours "
      "with --text, "
      "--choices and --label",
      r.where, fields.empty() ? "none" : fields);
}

}  // namespace

void parse_choice(std::string_view text, const std::string& where, std::vector<ChoiceItem>& out) {
  const Json json = Json::parse(text, nullptr, false);
  const Record record{json, where};
  const bool list = json.is_array() && json.size() >= 2 && json[0].is_array() && json[1].is_array();
  if (list) return dialogue(record, out);
  if (!json.is_object()) fail("{}: expected a JSON object, found {}", where, json.type_name());
  out.push_back(parse_object(record));
  const ChoiceItem& item = out.back();
  if (item.choices.size() < 2) fail("{}: a question needs at least 2 choices, found {}", where, item.choices.size());
}

std::vector<ChoiceItem> read_choices(const std::string& path, std::int64_t limit) {
  std::vector<ChoiceItem> out;
  for (const JsonRecord& record : read_json_records(path, limit)) {
    parse_choice(record.text, record.where, out);
    if (limit > 0 && static_cast<std::int64_t>(out.size()) >= limit) break;
  }
  if (limit > 0 && static_cast<std::int64_t>(out.size()) > limit) out.resize(static_cast<std::size_t>(limit));
  return out;
}

}  // namespace rhetor
