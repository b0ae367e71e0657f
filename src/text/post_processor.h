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

// An encoding on its way, with the text it came from (none for what the template adds), and the windows over what was cut off.
struct EncodedPart {
  Encoding encoding;
  std::string_view text;
  std::vector<Encoding> overflow;
};

class PostProcessor {
 public:
  virtual ~PostProcessor() = default;
  // `parts` are the encodings of one text or of a pair. Tokens are added only if `framed`.
  virtual void apply(std::vector<EncodedPart>& parts, bool framed) const = 0;
  // How many tokens it adds to one text or a pair.
  virtual std::size_t added(bool pair) const = 0;
};
using PostProcessorPtr = std::unique_ptr<const PostProcessor>;

// Text of a token as the model spells it, for trimming; empty for added tokens, which stand for what they cover.
using TokenText = std::function<std::string_view(TokenId id)>;
// tokenizer.json's "post_processor"; null JSON gives a null pointer. Ids must be below `vocab_size`.
PostProcessorPtr make_post_processor(const Json& json, const std::string& where, std::int64_t vocab_size, TokenText text);

// [cls] A [sep] B [sep], the second text and its [sep] as segment 1; ids below 0 are left out.
PostProcessorPtr make_role_template(TokenId cls, TokenId sep);

// One encoding of all parts, then its windows: each window of a part with the other parts, whole and in windows.
std::vector<Encoding> joined(const std::vector<EncodedPart>& parts);
// The encoding of a text or a pair: cut, framed, joined. `post` may be null.
std::vector<Encoding> windows_of(std::vector<EncodedPart> parts, const WindowOptions& options, const PostProcessor* post);

}  // namespace rhetor
