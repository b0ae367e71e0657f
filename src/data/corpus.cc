#include "data/corpus.h"

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "data/lines.h"
#include "text/utf8.h"

namespace rhetor {
namespace {

constexpr std::size_t kMaxPiece = 1 << 20;  // of a line of plain text

std::string without_compression(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  for (const std::string_view suffix : {".gz", ".xz", ".zst"}) {
    if (name.ends_with(suffix)) return name.substr(0, name.size() - suffix.size());
  }
  return name;
}

bool is_jsonl(const std::filesystem::path& path) {
  const std::string name = without_compression(path.filename().string());
  return name.ends_with(".jsonl") || name.ends_with(".ndjson");
}

std::vector<std::filesystem::path> expanded(const std::vector<std::filesystem::path>& paths) {
  std::vector<std::filesystem::path> out;
  for (const auto& path : paths) {
    std::error_code error;
    const auto status = std::filesystem::status(path, error);
    if (!std::filesystem::exists(status)) fail(ErrorKind::not_found, "there is no file or folder '{}'", path.string());
    if (!std::filesystem::is_directory(status)) {
      out.push_back(path);
      continue;
    }
    const std::size_t before = out.size();
    std::filesystem::directory_iterator entries(path, error);
    if (error) fail(ErrorKind::io, "cannot list the folder '{}': {}", path.string(), error.message());
    for (const auto& entry : entries) {
      const std::string name = without_compression(entry.path().filename().string());
      if (entry.is_regular_file(error) && !name.starts_with(".") && (name.ends_with(".txt") || is_jsonl(entry.path())))
        out.push_back(entry.path());
    }
    if (out.size() == before) {
      fail(
          "the folder '{}' has no .txt or .jsonl file (nor .gz, .xz, .zst of one), and no tokens.json as a folder that `rhetor "
          "data tokenize` has finished",
          path.string());
    }
    std::sort(out.begin() + static_cast<std::ptrdiff_t>(before), out.end());
  }
  if (out.empty()) fail("no text was given; name at least one file or folder");
  return out;
}


}  // namespace

struct Corpus::Impl {
  std::vector<std::filesystem::path> files;
  CorpusOptions options;
  std::size_t file = 0;  // the one being read
  std::optional<LineReader> lines;
  std::string carry;     // plain text read but not yet given out
  bool any = false;

  // One document of the open plain text file. False at its end (then `document` is empty).
  bool next_plain(std::string& document) {
    document.clear();
    document.swap(carry);
    LinePiece piece;
    while (document.size() <= options.max_document_bytes) {
      if (!lines->next(piece)) {
        trim_newline(document);
        return !document.empty();
      }
      if (piece.first && piece.last && !options.separator.empty() && is_separator(piece.text)) {
        trim_newline(document);
        if (!is_blank(document)) return true;
        document.clear();
        continue;
      }
      document += piece.text;
      if (piece.newline) document += '\n';
    }
    cut(document);
    return true;
  }

  bool is_separator(std::string_view line) const {
    if (line.ends_with('\r')) line.remove_suffix(1);
    return line == options.separator;
  }

  // The newline before a separator or the end of the file belongs to the file format, not to the document.
  static void trim_newline(std::string& document) {
    if (document.ends_with('\n')) document.pop_back();
    if (document.ends_with('\r')) document.pop_back();
  }

  // Keeps max_document_bytes at most and carries the rest over: at a line end in the second half, else between characters.
  void cut(std::string& document) {
    const std::size_t max = options.max_document_bytes;
    std::size_t at = document.rfind('\n', max - 1);
    at = at == std::string::npos || at < max / 2 ? utf8_cut(document, max) : at + 1;
    if (at == 0) at = max;
    carry.assign(document, at);
    document.resize(at);
  }

  bool next_record(std::string& document) {
    LinePiece piece;
    std::string record;
    while (lines->next(piece)) {
      if (!piece.last)
        fail("'{}' line {} is longer than the {} bytes a document may have", files[file].string(), lines->line(),
             options.max_document_bytes);
      if (is_blank(piece.text)) continue;
      record.assign(piece.text);
      parse_record(record, options, files[file].string(), lines->line(), document);
      return true;
    }
    return false;
  }

  bool next(std::string& document) {
    while (file < files.size()) {
      const bool jsonl = is_jsonl(files[file]);
      if (!lines) lines.emplace(files[file], jsonl ? options.max_document_bytes : kMaxPiece);
      while (jsonl ? next_record(document) : next_plain(document)) {
        if (is_blank(document)) continue;
        any = true;
        return true;
      }
      lines.reset();
      ++file;
    }
    if (!any) {
      fail("there is no text in '{}'{}; give a file with some", files[0].string(),
           files.size() > 1 ? fmt::format(" and the {} other files", files.size() - 1) : "");
    }
    document.clear();
    return false;
  }
};

Corpus::Corpus(std::vector<std::filesystem::path> paths, CorpusOptions options) : impl_(std::make_unique<Impl>()) {
  impl_->files = expanded(paths);
  impl_->options = std::move(options);
  if (!impl_->options.chat_template) impl_->options.chat_template = default_chat_template(nullptr);
  if (impl_->options.max_document_bytes < 16)
    fail("max_document_bytes is {}, expected at least 16", impl_->options.max_document_bytes);
}

Corpus::~Corpus() = default;

bool Corpus::next(std::string& document) { return impl_->next(document); }

void Corpus::rewind() {
  impl_->lines.reset();
  impl_->carry.clear();
  impl_->file = 0;
}

}  // namespace rhetor
