#include "text/pipeline_parts.h"

#include <fmt/core.h>

#include <algorithm>

#include "text/text_cutter.h"
#include "text/vocabulary_json.h"

namespace rhetor {

std::string parts_as_json(const Json& root, const AddedTokens& added) {
  const auto part = [&](const char* key) { return member_or_null(root, key).dump(-1, ' ', false, Json::error_handler_t::replace); };
  std::string out = fmt::format("{{\n  \"version\": \"1.0\",\n  \"truncation\": {},\n  \"padding\": {},\n  \"added_tokens\": [", part("truncation"),
                                part("padding"));
  auto tokens = added.list();
  std::sort(tokens.begin(), tokens.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const AddedToken& t = tokens[i];
    out += fmt::format("{}\n    {{\"id\": {}, \"content\": {}, \"single_word\": {}, \"lstrip\": {}, \"rstrip\": {}, \"normalized\": {}, "
                       "\"special\": {}}}",
                       i ? "," : "", t.id, json_string(t.text), t.single_word, t.lstrip, t.rstrip, t.normalized, t.special);
  }
  out += tokens.empty() ? "],\n" : "\n  ],\n";
  for (const char* key : {"normalizer", "pre_tokenizer", "post_processor", "decoder"}) out += fmt::format("  \"{}\": {},\n", key, part(key));
  return out;
}

}  // namespace rhetor
