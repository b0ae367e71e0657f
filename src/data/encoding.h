// Encodings cut to what a model can read: truncation, windows over a long text, and words for tagging.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace rhetor {

// A run of an encoding's tokens that come from one text: [begin, end) of ids. The last block of a pair is its second text.
struct Block {
  std::size_t begin = 0, end = 0;
  std::size_t size() const { return end - begin; }
};
std::vector<Block> blocks(const Encoding& encoding);

// Drops tokens from the end of the longest text, one by one, until `limit` are left; what the template added stays. Fails, naming
// both numbers, if that alone is longer.
void truncate(Encoding& encoding, std::int64_t limit);

// A long encoding in pieces of at most `limit` tokens: what surrounds the last text is repeated, the text itself is cut so that
// neighbours share `stride` of its tokens.
struct Window {
  Encoding encoding;
  Block text;             // where the piece stands in `encoding`
  std::size_t first = 0;  // which token of the whole text the piece begins with
};
// An encoding that fits is one window. At most half of a window is shared; fails if there is no room for the text at all.
std::vector<Window> windows(const Encoding& encoding, std::int64_t limit, std::int64_t stride);
// Which window sees token `token` of the text with the most context on its poorer side (Devlin et al. 2019, the SQuAD code).
std::size_t best_window(const std::vector<Window>& all, std::size_t token);

// The second text of a multiple-choice pair: `question` (may be empty), then the choice.
inline std::string choice_text(const std::string& question, const std::string& choice) {
  return question.empty() ? choice : question + " " + choice;
}

// Byte ranges of the words of a text: what stands between spaces, punctuation at either end being a word of its own.
std::vector<Encoding::Range> split_words(std::string_view text);
// For each word the index in `encoding.ids` of its first token; -1 where truncation took it. `block` is the text's.
std::vector<std::int64_t> first_tokens(const Encoding& encoding, Block block, const std::vector<Encoding::Range>& words);

}  // namespace rhetor
