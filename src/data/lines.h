// Lines of a byte stream in pieces of bounded size. Internal to the room.
#pragma once

#include <string>
#include <string_view>

#include "data/corpus.h"

namespace rhetor {

// `text` without its newline; a line longer than the limit comes in several pieces.
struct LinePiece {
  std::string_view text;  // valid until the next call
  bool first, last;       // of its line
  bool newline;           // a newline followed (false for the last line of a file that lacks it)
};

class LineReader {
 public:
  LineReader(const std::filesystem::path& path, std::size_t max_piece);
  // Fails on a NUL byte. A UTF-8 byte order mark at the start of the file is skipped.
  bool next(LinePiece& piece);
  std::uint64_t line() const { return line_; }  // of the last piece, from 1

 private:
  bool fill();
  std::filesystem::path path_;
  std::unique_ptr<ByteReader> reader_;
  std::size_t max_piece_;
  std::string buffer_;
  std::size_t begin_ = 0;        // unread part of buffer_
  std::size_t searched_ = 0;     // buffer_[begin_, searched_) has no newline
  std::uint64_t line_ = 0;
  bool inside_ = false;          // the last piece did not end its line
  bool started_ = false, ended_ = false;
};

// One JSON record with its text by `options`, whose chat template is not null. Fails naming `file` and `line`. `record` may be
// cleaned of invalid UTF-8.
void parse_record(std::string& record, const CorpusOptions& options, const std::string& file, std::uint64_t line,
                  std::string& document);

}  // namespace rhetor
