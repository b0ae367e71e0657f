#include "eval/fields.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "data/corpus.h"
#include "eval/report.h"

namespace rhetor {
namespace {

struct Known {
  const char *kind, *text, *pair, *label;   // kind "": of any
};
// The first whose names are all there. "-": there is none.
constexpr Known kKnown[] = {
    {"regression", "sentence_A", "sentence_B", "relatedness_score"},   // SICK
    {"classification", "sentence_A", "sentence_B", "entailment_judgment"},
    {"", "question1", "question2", "is_duplicate"},                    // QQP
    {"", "#1 String", "#2 String", "Quality"},                         // MRPC
    {"regression", "sentence1", "sentence2", "score"},                 // STS-B
    {"", "sentence1", "sentence2", "gold_label"},                      // MNLI
    {"", "sentence1", "sentence2", "label"},                           // RTE, WNLI, OCNLI
    {"", "premise", "hypothesis", "label"},
    {"", "question", "sentence", "label"},                             // QNLI
    {"ranking", "qtext", "atext", "label"},                            // TrecQA
    {"ranking", "query", "document", "label"},
    {"ranking", "query", "documents", "labels"},
    {"ranking", "query", "docs", "relevance"},
    {"", "question", "passage", "answer"},                             // BoolQ
    {"", "sentence", "-", "label"},                                    // SST-2
    {"", "text", "-", "label"},
    {"tagging", "tokens", "-", "tags"},
    {"tagging", "tokens", "-", "ner_tags"},
    {"tagging", "words", "-", "tags"},
};

std::string first_line(const std::string& path) {
  const auto reader = open_reader(path);
  std::string out(std::size_t{1} << 16, '\0');
  std::size_t size = 0;
  while (size < out.size()) {
    const std::size_t n = reader->read(out.data() + size, out.size() - size);
    if (n == 0) break;
    size += n;
  }
  out.resize(size);
  if (out.starts_with("\xef\xbb\xbf")) out.erase(0, 3);
  out.resize(std::min(out.find('\n'), out.size()));
  while (!out.empty() && out.back() == '\r') out.pop_back();
  return out;
}

std::vector<std::string> cells(const std::string& line, char separator) {
  std::vector<std::string> out{""};
  for (const char c : line) {
    if (c == separator) out.emplace_back();
    else out.back() += c;
  }
  return out;
}

bool is_decimal(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || c == '.'; });
}

void fill(ExampleFields& fields, const char* text, const char* pair, const char* label) {
  if (fields.text.empty()) fields.text = text;
  if (fields.pair.empty()) fields.pair = pair;
  if (fields.label.empty()) fields.label = label;
}

}  // namespace

ExampleFields guess_fields(const std::string& path, std::string_view kind, ExampleFields given) {
  const std::string line = first_line(path);
  std::vector<std::string> names;
  if (const auto json = nlohmann::json::parse(line, nullptr, false); json.is_object()) {
    for (const auto& [key, value] : json.items()) names.push_back(key);
  } else {
    names = cells(line, line.find('\t') != std::string::npos ? '\t' : ',');
  }
  const auto has = [&](const char* name) {
    return std::string_view(name) == "-" || std::find(names.begin(), names.end(), name) != names.end();
  };
  for (const Known& known : kKnown) {
    if (known.kind[0] != '\0' && kind != known.kind) continue;
    if (!has(known.text) || !has(known.pair) || !has(known.label)) continue;
    fill(given, known.text, known.pair, known.label);
    return given;
  }
  if (names.size() >= 7 && is_decimal(names[4])) fill(given, "6", "7", "5");                                     // STS-B
  else if (names.size() == 4 && (names[1] == "0" || names[1] == "1") && names[2].size() <= 1)
    fill(given, "4", "-", "2");  // CoLA
  return given;
}

}  // namespace rhetor
