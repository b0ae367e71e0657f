// Post-processors: what is put around and between the encoded texts, and which ranges are trimmed. Internal to the room.
// Thread-safety: immutable.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/json_reader.h"
#include "text/tokenizer.h"

namespace rhetor {

// An encoding on its way, with the text it came from (none for what the template adds).
struct EncodedPart {
  Encoding encoding;
  std::string_view text;
};

class PostProcessor {
 public:
  virtual ~PostProcessor() = default;
  // `parts` are the encodings of one text or of a pair.
  virtual void apply(std::vector<EncodedPart>& parts) const = 0;
  // How many tokens it adds to one text or a pair.
  virtual std::size_t added(bool pair) const = 0;
};
using PostProcessorPtr = std::unique_ptr<const PostProcessor>;

// Text of a token as the model spells it, for trimming; empty for added tokens, which stand for what they cover.
using TokenText = std::function<std::string_view(TokenId id)>;
// tokenizer.json's "post_processor"; null JSON gives a null pointer. Ids must be below `vocab_size`.
PostProcessorPtr make_post_processor(const Json& json, const std::string& where, std::int64_t vocab_size, TokenText text);

// Appends `from` to `to`.
void append_encoding(Encoding& to, const Encoding& from);

}  // namespace rhetor
