// Documents from files: plain text, JSONL and their .gz, .xz, .zst forms, as a stream with bounded memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/chat_template.h"

namespace rhetor {

struct CorpusOptions {
  // JSONL: the string field that holds the text. A record with a "messages" list [{role, content}] is rendered with the chat
  // template instead; special tokens in its messages are neutralised.
  std::string text_field = "text";
  ChatTemplatePtr chat_template;       // null: the family "rhetor"
  std::vector<std::string> specials;   // the tokenizer's
  // Plain text: a document ends at a line that is exactly this ("" = the whole file is one document).
  std::string separator = "<|endoftext|>";
  std::uint64_t max_document_bytes = 64u << 20;   // longer ones are cut into pieces at line or UTF-8 boundaries
  // Conversations as a model will meet them: by its template, or the default one of its tokenizer if `own` is null.
  void converse(const Tokenizer& tokenizer, ChatTemplatePtr own) {
    chat_template = own ? std::move(own) : default_chat_template(&tokenizer);
    specials = tokenizer.specials();
  }
};

// Iterates over the documents of several files in the given order. Blank documents are left out. Invalid UTF-8 is kept as bytes
// in plain text and replaced by U+FFFD in JSONL. Fails naming file, line and what is wrong (broken archive, malformed JSON, no
// such field); fails on a binary file (NUL bytes) and, at its end, on an empty corpus. A JSONL line may have max_document_bytes.
class Corpus {
 public:
  // A path may be a file, or a folder (its .txt/.jsonl[.gz|.xz|.zst] files in name order).
  Corpus(std::vector<std::filesystem::path> paths, CorpusOptions options = {});
  ~Corpus();
  bool next(std::string& document);
  void rewind();
 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A byte stream over a possibly compressed file (by content, not by name).
class ByteReader {
 public:
  virtual ~ByteReader() = default;
  virtual std::size_t read(char* to, std::size_t size) = 0;   // 0 = end; fails on damage, naming file and offset
};
std::unique_ptr<ByteReader> open_reader(const std::filesystem::path& path);
// A whole file, unpacked, without the mark that some programs put before UTF-8; fails above `limit` bytes.
std::string read_unpacked(const std::filesystem::path& path, std::size_t limit = std::size_t{1} << 31);
// Calls visit(line, number from 1) with each line of `text`, "\n" and a "\r" before it left out, until it returns false.
template <class Visit>
void each_line(std::string_view text, Visit visit) {
  std::uint64_t number = 0;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!visit(line, ++number)) return;
  }
}
inline bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r\n\f\v") == std::string_view::npos; }

}  // namespace rhetor
