#include "data/lines.h"

#include <cstring>

#include "base/error.h"

namespace rhetor {
namespace {
constexpr std::size_t kRead = 256 << 10;
}

LineReader::LineReader(const std::filesystem::path& path, std::size_t max_piece)
    : path_(path), reader_(open_reader(path)), max_piece_(max_piece) {}

// Appends more of the file; the part already returned is dropped first, so the buffer stays below max_piece_ + 2 reads.
bool LineReader::fill() {
  if (ended_) return false;
  buffer_.erase(0, begin_);
  searched_ -= begin_;
  begin_ = 0;
  const std::size_t old = buffer_.size();
  buffer_.resize(old + kRead);
  const std::size_t got = reader_->read(buffer_.data() + old, kRead);
  buffer_.resize(old + got);
  if (got == 0) {
    ended_ = true;
    return false;
  }
  if (const void* nul = std::memchr(buffer_.data() + old, 0, got)) {
    std::uint64_t line = line_ + (inside_ ? 0 : 1);
    for (const char* c = buffer_.data(); c != nul; ++c) line += *c == '\n';
    fail("'{}' has a NUL byte in line {}, so it is a binary file or UTF-16; expected UTF-8 text", path_.string(), line);
  }
  return true;
}

bool LineReader::next(LinePiece& piece) {
  if (!started_) {
    started_ = true;
    while (buffer_.size() < 3 && fill()) {
    }
    if (buffer_.compare(0, 3, "\xEF\xBB\xBF") == 0) begin_ = searched_ = 3;
  }
  for (;;) {
    const std::size_t found = buffer_.find('\n', searched_);
    std::size_t end = found == std::string::npos ? buffer_.size() : found;
    if (end - begin_ > max_piece_) {
      piece = {std::string_view(buffer_).substr(begin_, max_piece_), !inside_, false, false};
      begin_ += max_piece_;
      searched_ = begin_;
      line_ += !inside_;
      inside_ = true;
      return true;
    }
    if (found == std::string::npos) {
      searched_ = end;
      if (fill()) continue;
      end = buffer_.size();  // fill() moves what is left to the front
      if (begin_ == end && !inside_) return false;
    }
    piece = {std::string_view(buffer_).substr(begin_, end - begin_), !inside_, true, found != std::string::npos};
    begin_ = searched_ = found == std::string::npos ? end : end + 1;
    line_ += !inside_;
    inside_ = false;
    return true;
  }
}

}  // namespace rhetor
