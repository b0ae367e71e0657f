// Tables, word-a-line files, and what all formats share; example_records.cc has the JSON forms.
#include "data/examples.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdlib>

#include "base/error.h"
#include "data/corpus.h"
#include "data/example_records.h"
#include "data/tables.h"

namespace rhetor {
namespace {

namespace fs = std::filesystem;

std::string read_all(const fs::path& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) fail("'{}' is a folder; name the files with examples", path.string());
  std::string out = read_unpacked(path);
  if (out.find('\0') != std::string::npos) fail("'{}' is not text: it holds a NUL byte", path.string());
  return out;
}

// "dev.TSV.xz" -> "tsv"
std::string format_of(const fs::path& path) {
  std::string name = path.filename().string();
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  for (const std::string_view packed : {".gz", ".xz", ".zst"})
    if (name.ends_with(packed)) name.resize(name.size() - packed.size());
  const std::size_t dot = name.rfind('.');
  return dot == std::string::npos ? "" : name.substr(dot + 1);
}

bool is_number(const std::string& name) {
  return !name.empty() && name.size() < 6 &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
}

// The cell of a row that a field names; "" for "-".
class Columns {
 public:
  Columns(std::string file, std::vector<std::string> heading) : file_(std::move(file)), heading_(std::move(heading)) {}
  std::string cell(const std::vector<std::string>& row, const std::string& field, std::uint64_t line) const {
    if (field == "-") return "";
    std::size_t column = 0;
    if (is_number(field)) {
      column = static_cast<std::size_t>(std::atoi(field.c_str()));
      if (column == 0) fail("the field '{}' names no column; columns count from 1", field);
      --column;
    } else {
      const auto found = std::find(heading_.begin(), heading_.end(), field);
      if (found == heading_.end()) {
        std::string list;
        for (const std::string& name : heading_) list += (list.empty() ? "'" : ", '") + name.substr(0, 40) + "'";
        fail(
            "'{}' has no column '{}'; its first line has {}. Name the columns in [task], or give their numbers (from 1) if there "
            "is no heading line",
            file_, field, list.substr(0, 400));
      }
      column = static_cast<std::size_t>(found - heading_.begin());
    }
    if (column >= row.size())
      fail("'{}' line {}: the column '{}' is missing; the line has {} of at least {}", file_, line, field, row.size(),
           column + 1);
    return row[column];
  }

 private:
  std::string file_;
  std::vector<std::string> heading_;
};

void read_table(const std::string& text, const std::string& file, char separator, std::string_view kind,
                const ExampleFields& fields, std::vector<Example>& out) {
  TableReader rows(text, separator, separator == ',');
  std::vector<std::string> row;
  std::vector<std::string> named = fields.choices;
  for (const std::string& field : {fields.text, fields.pair, fields.label}) named.push_back(field);
  const bool heading = std::any_of(named.begin(), named.end(), [](const std::string& f) { return f != "-" && !is_number(f); });
  if (heading && !rows.next(row)) return;
  const Columns columns(file, heading ? row : std::vector<std::string>());
  while (rows.next(row)) {
    Example e;
    e.first = columns.cell(row, fields.text, rows.line());
    e.second = columns.cell(row, fields.pair, rows.line());
    e.label = columns.cell(row, fields.label, rows.line());
    if (kind == "choice") {
      for (const std::string& field : fields.choices) e.choices.push_back(columns.cell(row, field, rows.line()));
      find_right_choice(e, fmt::format("'{}' line {}", file, rows.line()));
    }
    out.push_back(std::move(e));
  }
}

// One word a line, its tag in the last column; blank lines end a sentence (the form of the CoNLL shared tasks).
void read_words(const std::string& text, const std::string& file, std::vector<Example>& out) {
  Example e;
  const auto finish = [&] {
    if (!e.words.empty()) out.push_back(std::move(e));
    e = {};
  };
  each_line(text, [&](std::string_view row, std::uint64_t line) {
    if (is_blank(row) || row.starts_with("-DOCSTART-")) {
      finish();
      return true;
    }
    const std::size_t begin = row.find_first_not_of(" \t\r");
    const std::size_t word_end = std::min(row.find_first_of(" \t\r", begin), row.size());
    const std::size_t last = row.find_last_not_of(" \t\r");
    const std::size_t tag = row.find_last_of(" \t", last);
    if (tag == std::string_view::npos || tag < word_end)
      fail("'{}' line {}: expected a word and its tag, found '{}'", file, line, row.substr(0, 60));
    e.words.emplace_back(row.substr(begin, word_end - begin));
    e.tags.emplace_back(row.substr(tag + 1, last - tag));
    return true;
  });
  finish();
}

}  // namespace

ExampleFields usual_fields(std::string_view kind, ExampleFields f) {
  const auto fill = [](std::string& field, const char* usual) {
    if (field.empty()) field = usual;
  };
  const bool ranking = kind == "ranking", span = kind == "span", tagging = kind == "tagging";
  fill(f.text, ranking ? "query" : span ? "question" : tagging ? "words" : "text");
  fill(f.pair, ranking ? "document" : span ? "context" : kind == "embedding" ? "pair" : "-");
  fill(f.label, span ? "answers" : tagging ? "tags" : kind == "embedding" ? "-" : "label");
  if (kind == "choice" && f.choices.empty()) f.choices = {"choices"};
  return f;
}

void find_right_choice(Example& e, const std::string& where) {
  if (e.choices.empty()) fail("{}: there are no choices", where);
  if (e.label.empty()) return;
  if (const auto found = std::find(e.choices.begin(), e.choices.end(), e.label); found != e.choices.end())
    e.right = found - e.choices.begin();
  else if (e.label.size() == 1 && std::isalpha(static_cast<unsigned char>(e.label[0])) != 0)
    e.right = std::toupper(static_cast<unsigned char>(e.label[0])) - 'A';
  else if (is_number(e.label))
    e.right = std::atoi(e.label.c_str());
  if (e.right < 0 || e.right >= static_cast<std::int64_t>(e.choices.size()))
    fail("{}: the label '{}' is none of the {} choices: neither the text of one, nor its letter, nor its number from 0", where,
         e.label.substr(0, 60), e.choices.size());
}

std::vector<Example> read_examples(const std::vector<fs::path>& files, std::string_view kind, const ExampleFields& wanted) {
  if (files.empty()) fail("no file with examples was given");
  const ExampleFields fields = usual_fields(kind, wanted);
  std::vector<Example> out;
  for (const fs::path& path : files) {
    const std::string text = read_all(path), format = format_of(path), file = path.string();
    if (format == "jsonl" || format == "ndjson" || format == "json")
      read_records(text, file, format != "json", kind, fields, out);
    else if (kind == "tagging")
      read_words(text, file, out);
    else if (kind == "span")
      fail("'{}': questions about passages are read from SQuAD's .json or from .jsonl records", file);
    else
      read_table(text, file, format == "csv" ? ',' : '\t', kind, fields, out);
  }
  if (out.empty()) fail("'{}' holds no examples", files[0].string());
  return out;
}

double label_number(const std::string& label, std::string_view where) {
  char* end = nullptr;
  const double value = std::strtod(label.c_str(), &end);
  if (label.empty() || *end != '\0' || !std::isfinite(value))
    fail("{}: the label '{}' is not a number", where, label.substr(0, 60));
  return value;
}

}  // namespace rhetor
