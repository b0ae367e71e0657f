#include "data/example_records.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "data/corpus.h"

namespace rhetor {
namespace {

using nlohmann::json;

// The value at "question.stem"; null if a step is missing.
const json* at_path(const json& record, const std::string& field) {
  if (const auto whole = record.find(field); whole != record.end()) return &*whole;
  const json* at = &record;
  for (std::size_t begin = 0; begin <= field.size();) {
    const std::size_t end = std::min(field.find('.', begin), field.size());
    if (!at->is_object()) return nullptr;
    const auto step = at->find(field.substr(begin, end - begin));
    if (step == at->end()) return nullptr;
    at = &*step;
    begin = end + 1;
  }
  return at;
}

const json& required(const json& record, const std::string& field, const std::string& where) {
  if (!record.is_object()) fail("{}: expected a JSON object", where);
  if (const json* found = at_path(record, field)) return *found;
  std::string names;
  for (const auto& [name, value] : record.items())
    if (names.size() < 200) names += (names.empty() ? "" : ", ") + name.substr(0, 40);
  fail("{}: no field \"{}\" (fields there: {}); name the field in [task]", where, field, names.empty() ? "none" : names);
}

// Numbers and truth values count as their text; "text" of an object, as in lists of {"label", "text"}.
std::string text_of(const json& value, const std::string& field, const std::string& where) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number() || value.is_boolean()) return value.dump();
  if (value.is_object() && value.contains("text")) return text_of(value["text"], field, where);
  fail("{}: the field \"{}\" must be a text or a number, found {}", where, field,
       value.dump(-1, ' ', false, json::error_handler_t::replace).substr(0, 60));
}

std::vector<std::string> list_of(const json& value, const std::string& field, const std::string& where) {
  if (!value.is_array()) fail("{}: the field \"{}\" must be a list", where, field);
  std::vector<std::string> out;
  for (const json& item : value) out.push_back(text_of(item, field, where));
  return out;
}

// Bytes of the first `characters` characters.
std::size_t bytes_of(const std::string& text, std::int64_t characters) {
  std::size_t at = 0;
  for (; at < text.size() && characters > 0; --characters) {
    ++at;
    while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) ++at;
  }
  return at;
}

// Files count characters, some of them wrongly: the place given if the text stands there, else the nearest one where it does.
std::int64_t place(const std::string& passage, const std::string& answer, std::int64_t character) {
  if (answer.empty()) return -1;
  const std::size_t wanted = bytes_of(passage, character);
  std::int64_t best = -1;
  for (std::size_t at = passage.find(answer); at != std::string::npos; at = passage.find(answer, at + 1)) {
    const auto distance = [&](std::int64_t p) { return std::abs(p - static_cast<std::int64_t>(wanted)); };
    if (best < 0 || distance(static_cast<std::int64_t>(at)) < distance(best)) best = static_cast<std::int64_t>(at);
    if (at >= wanted) break;
  }
  return best;
}

// A list of {"text", "answer_start"}, an object of two lists, or a list of texts.
void add_answers(Example& e, const json& answers, const std::string& field, const std::string& where) {
  const auto add = [&](const json& text, const json* start) {
    const std::string answer = text_of(text, field, where);
    const std::int64_t character = start && start->is_number_integer() ? start->get<std::int64_t>() : 0;
    if (!answer.empty()) e.answers.push_back({answer, place(e.second, answer, character)});
  };
  if (answers.is_null()) return;
  if (answers.is_object()) {
    const auto texts = answers.find("text"), starts = answers.find("answer_start");
    if (texts == answers.end() || !texts->is_array()) fail("{}: \"{}\" must hold a list \"text\"", where, field);
    for (std::size_t i = 0; i < texts->size(); ++i) {
      const bool known = starts != answers.end() && starts->is_array() && i < starts->size();
      add((*texts)[i], known ? &(*starts)[i] : nullptr);
    }
  } else if (answers.is_array()) {
    for (const json& answer : answers) {
      const auto start = answer.is_object() ? answer.find("answer_start") : answer.end();
      add(answer, answer.is_object() && start != answer.end() ? &*start : nullptr);
    }
  } else {
    add(answers, nullptr);
  }
}

void read_squad(const json& file_json, const std::string& file, std::vector<Example>& out) {
  const auto list = [&](const json& in, const char* field) -> const json& {
    const json& value = required(in, field, "'" + file + "'");
    if (!value.is_array()) fail("'{}': \"{}\" must be a list", file, field);
    return value;
  };
  for (const json& article : list(file_json, "data")) {
    for (const json& paragraph : list(article, "paragraphs")) {
      const std::string context = text_of(required(paragraph, "context", "'" + file + "'"), "context", file);
      for (const json& qa : list(paragraph, "qas")) {
        Example e;
        if (qa.is_object() && qa.contains("id")) e.id = text_of(qa["id"], "id", file);
        const std::string where = fmt::format("'{}' question '{}'", file, e.id);
        e.first = text_of(required(qa, "question", where), "question", where);
        e.second = context;
        const auto impossible = qa.find("is_impossible");
        const bool none = impossible != qa.end() && impossible->is_boolean() && impossible->get<bool>();
        if (!none && qa.contains("answers")) add_answers(e, qa["answers"], "answers", where);
        out.push_back(std::move(e));
      }
    }
  }
}

void read_record(const json& record, const std::string& where, std::string_view kind, const ExampleFields& fields,
                 std::vector<Example>& out) {
  Example e;
  const auto text = [&](const std::string& field) {
    return field == "-" ? "" : text_of(required(record, field, where), field, where);
  };
  if (const json* id = record.is_object() ? at_path(record, "id") : nullptr; id && (id->is_string() || id->is_number()))
    e.id = text_of(*id, "id", where);
  if (kind == "tagging") {
    e.words = list_of(required(record, fields.text, where), fields.text, where);
    if (fields.label != "-") e.tags = list_of(required(record, fields.label, where), fields.label, where);
    if (e.tags.empty()) e.tags.resize(e.words.size());
    if (e.tags.size() != e.words.size()) fail("{}: {} words but {} tags", where, e.words.size(), e.tags.size());
    if (!e.words.empty()) out.push_back(std::move(e));
    return;
  }
  e.first = text(fields.text);
  const json* pair = fields.pair == "-" ? nullptr : &required(record, fields.pair, where);
  if (kind == "ranking" && pair && pair->is_array()) {
    const std::vector<std::string> documents = list_of(*pair, fields.pair, where);
    const auto labels = fields.label == "-" ? std::vector<std::string>(documents.size())
                                            : list_of(required(record, fields.label, where), fields.label, where);
    if (labels.size() != documents.size()) fail("{}: {} documents but {} labels", where, documents.size(), labels.size());
    for (std::size_t i = 0; i < documents.size(); ++i) {
      Example one = e;
      one.second = documents[i], one.label = labels[i];
      out.push_back(std::move(one));
    }
    return;
  }
  if (pair) e.second = text_of(*pair, fields.pair, where);
  if (kind == "span") {
    if (const json* answers = fields.label == "-" ? nullptr : at_path(record, fields.label))
      add_answers(e, *answers, fields.label, where);
  } else if (fields.label != "-") {
    e.label = text(fields.label);
  }
  if (kind == "choice") {
    if (fields.choices.size() == 1)
      e.choices = list_of(required(record, fields.choices[0], where), fields.choices[0], where);
    else
      for (const std::string& field : fields.choices) e.choices.push_back(text(field));
    find_right_choice(e, where);
  }
  out.push_back(std::move(e));
}

}  // namespace

void read_records(const std::string& text, const std::string& file, bool lines, std::string_view kind,
                  const ExampleFields& fields, std::vector<Example>& out) {
  if (!lines) {
    const json whole = json::parse(text, nullptr, false);
    if (whole.is_discarded()) fail("'{}' is not valid JSON", file);
    if (whole.is_object() && whole.contains("data") && kind == "span") return read_squad(whole, file, out);
    if (!whole.is_array())
      fail("'{}': expected a list of objects{}", file, kind == "span" ? ", or SQuAD's {\"data\": [...]}" : "");
    std::size_t number = 0;
    for (const json& record : whole) read_record(record, fmt::format("'{}' record {}", file, ++number), kind, fields, out);
    return;
  }
  each_line(text, [&](std::string_view row, std::uint64_t line) {
    if (is_blank(row)) return true;
    const json record = json::parse(row, nullptr, false);
    const std::string where = fmt::format("'{}' line {}", file, line);
    if (record.is_discarded()) fail("{}: not valid JSON; every line of a JSONL file is one object", where);
    read_record(record, where, kind, fields, out);
    return true;
  });
}

}  // namespace rhetor
