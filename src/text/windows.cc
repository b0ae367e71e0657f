// Texts to encodings with a template and a limit.
#include <algorithm>

#include "text/pipeline_parts.h"
#include "text/post_processor.h"
#include "text/token_roles.h"

namespace rhetor {

std::vector<Encoding> windows_of(std::vector<EncodedPart> parts, const WindowOptions& options, const PostProcessor* post) {
  if (parts.size() > 1) std::fill(parts[1].encoding.segments.begin(), parts[1].encoding.segments.end(), 1);
  if (options.truncation) truncate(*options.truncation, post && options.framed ? post->added(parts.size() > 1) : 0, options.windows, parts);
  if (post) post->apply(parts, options.framed);
  return joined(parts);
}

// Byte-level tokenizers have no template of their own: roles tell.
std::vector<Encoding> Tokenizer::encode_windows(std::string_view text, const std::string_view* pair, const WindowOptions& options) const {
  std::vector<EncodedPart> parts;
  parts.push_back({encode_ranges(text, options.specials), text, {}});
  if (pair) parts.push_back({encode_ranges(*pair, options.specials), *pair, {}});
  const auto post = make_role_template(token_for(*this, TokenRole::classify), token_for(*this, TokenRole::separate));
  return windows_of(std::move(parts), options, post.get());
}

Encoding Tokenizer::encode_template(std::string_view text, const std::string_view* pair, bool specials) const {
  return encode_windows(text, pair, {.specials = specials, .windows = false, .truncation = truncation()}).front();
}

}  // namespace rhetor
