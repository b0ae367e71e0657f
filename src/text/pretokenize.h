// GPT-2 pre-tokenisation (Radford et al. 2019): text -> words; merges never cross a word. Internal to the room.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

namespace rhetor {

// Longer words are cut into pieces of this many bytes, so that hostile text (a gigabyte without a space) costs bounded memory.
inline constexpr std::size_t kMaxWordBytes = 64 << 10;

// Walks over the words of one text; concatenated they are the text. Bytes that are no UTF-8 form words of their own.
class WordScanner {
 public:
  explicit WordScanner(std::string_view text);
  ~WordScanner();
  WordScanner(const WordScanner&) = delete;
  WordScanner& operator=(const WordScanner&) = delete;
  bool next(std::string_view& word);

 private:
  std::string_view text_;
  std::size_t at_ = 0;        // start of the next word
  std::size_t run_end_ = 0;   // text_[at_, run_end_) is valid UTF-8
  std::size_t word_end_ = 0;  // end of the match we are inside of
  void* match_;               // pcre2_match_data
};

}  // namespace rhetor
