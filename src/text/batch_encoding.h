// Encodings as models take them in batches: cut to a length, with windows over what was cut off, and padded to one length. These are the
// "truncation" and "padding" of tokenizer.json.
// Thread-safety: plain data and pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace rhetor {

struct Truncation {
  enum class Strategy {
    longest_first,   // the longer text of a pair gives way, then both do
    only_first, only_second,
  };
  std::int64_t max_length = 512;                      // tokens, with those of the template
  std::int64_t stride = 0;                            // tokens that a window shares with the one before it
  Strategy strategy = Strategy::longest_first;
  bool left = false;                                  // the beginning is cut off
};

struct Padding {
  std::int64_t length = 0;                            // 0: that of the longest of the batch; longer ones stay as they are
  std::int64_t multiple_of = 0;                       // then up to a multiple of it; 0: no
  bool left = false;                                  // pads come first
  TokenId id = 0;
  std::int32_t segment = 0;
  std::string token = "[PAD]";                        // its text, for those who read the file
};

struct WindowOptions {
  bool framed = true;                                 // with what the template adds
  bool specials = false;                              // recognise special tokens in the text
  bool windows = true;                                // false: the first only
  const Truncation* truncation = nullptr;             // null: whole
};

struct BatchOptions {
  bool framed = true, specials = false;
  std::optional<Truncation> truncation;
  std::optional<Padding> padding;
};
// As the tokenizer's own file has it.
BatchOptions batch_options(const Tokenizer& tokenizer);
// Padding with the vocabulary's own padding token; fails if it has none.
Padding default_padding(const Tokenizer& tokenizer);

struct BatchText {
  std::string_view first;
  std::optional<std::string_view> second;
};

struct BatchEncoding {
  Encoding encoding;                                  // pads count as added, not as text
  std::vector<std::uint8_t> attention;                // 1: a token, 0: a pad
  std::vector<BatchEncoding> overflow;                // the windows over what was cut off, as long as the batch
};
// On all cores (base/thread_pool.h); element i belongs to texts[i].
std::vector<BatchEncoding> encode_batch(const Tokenizer& tokenizer, std::span<const BatchText> texts, const BatchOptions& options);

}  // namespace rhetor
