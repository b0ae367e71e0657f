// Documents from files: plain text, JSONL and their .gz, .xz, .zst forms, as a stream with bounded memory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace rhetor {

struct CorpusOptions {
  // JSONL: the string field that holds the text. A record with a "messages" list [{role, content}] is rendered with the chat template instead.
  std::string text_field = "text";
  // Plain text: a document ends at a line that is exactly this ("" = the whole file is one document).
  std::string separator = "<|endoftext|>";
  std::uint64_t max_document_bytes = 64u << 20;   // longer ones are cut into pieces at line or UTF-8 boundaries
};

// Iterates over the documents of several files in the given order. Blank documents are left out. Invalid UTF-8 is kept as bytes in
// plain text and replaced by U+FFFD in JSONL. Fails naming file, line and what is wrong (broken archive, malformed JSON, no such
// field); fails on a binary file (NUL bytes) and, at its end, on an empty corpus. A JSONL line may have max_document_bytes.
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

}  // namespace rhetor
