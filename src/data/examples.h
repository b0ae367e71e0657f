// Supervised examples from files: what fine-tuning and evaluation read. TSV and CSV tables, JSONL and JSON records, SQuAD's JSON,
// and word-a-line files for tagging, each plain or .gz, .xz, .zst.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace rhetor {

struct Example {
  struct Answer {
    std::string text;
    std::int64_t begin = -1;  // byte of `second`; -1 if the text is not found there
  };
  std::string id;                        // "" where the file gives none
  std::string first, second;             // text and pair; question and passage; query and document
  std::string label;                     // as in the file; "" if the fields name none
  std::vector<std::string> choices;      // choice
  std::int64_t right = -1;               // choice: index of the right one; -1 if the fields name no label
  std::vector<std::string> words, tags;  // tagging; tags "" if there are none
  std::vector<Answer> answers;           // span; empty = the passage does not answer
};

// Where the parts of an example stand: the name of a column (from the first line) or of a JSON field (dots reach into objects),
// or the number of a column, from 1, in a table without a heading line. Empty: the usual name for the kind; "-": there is none.
struct ExampleFields {
  std::string text, pair, label;
  std::vector<std::string> choices;  // one field that holds a list, or one field a choice
};
// The names that are used where `fields` is empty, for a kind of task_kinds(): text and label for classification, question,
// context and answers for span, query, document and label for ranking, words and tags for tagging, ...
ExampleFields usual_fields(std::string_view kind, ExampleFields fields = {});

// Reads all files in order. In ranking, a JSON record may hold lists of documents and labels: it becomes one example a document.
// Fails naming file, line and what is wrong: no such column, a label that is not there, malformed JSON; and if there is no
// example at all.
std::vector<Example> read_examples(const std::vector<std::filesystem::path>& files, std::string_view kind,
                                   const ExampleFields& fields = {});

// A label as a number; fails naming `where`.
double label_number(const std::string& label, std::string_view where);

}  // namespace rhetor
