#include "text/sentencepiece_json.h"

#include <fmt/core.h>

#include "text/vocabulary_json.h"

namespace rhetor {
namespace {

std::string base64(std::string_view bytes) {
  static constexpr char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t left = std::min<std::size_t>(3, bytes.size() - i);
    std::uint32_t bits = 0;
    for (std::size_t k = 0; k < 3; ++k) bits = bits << 8 | (k < left ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    for (std::size_t k = 0; k < 4; ++k) out += k <= left ? alphabet[bits >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

std::string normalizer(const SentencePieceFile& file) {
  std::string list;
  const auto add = [&](const std::string& part) { list += (list.empty() ? "" : ",\n    ") + part; };
  if (!file.charsmap.empty()) add("{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"" + base64(file.charsmap) + "\"}");
  if (file.remove_extra_whitespaces) {
    add(R"({"type": "Strip", "strip_left": true, "strip_right": true})");
    add(R"({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})");
  }
  return list.empty() ? "null" : "{\"type\": \"Sequence\", \"normalizers\": [\n    " + list + "]}";
}

}  // namespace

std::string sentencepiece_json(const SentencePieceFile& file, const TokenModel& model) {
  std::string added;
  for (std::size_t id = 0; id < file.pieces.size(); ++id) {
    const auto& piece = file.pieces[id];
    const bool special = piece.type == SentencePieceFile::Type::control || piece.type == SentencePieceFile::Type::unknown;
    if (!special && piece.type != SentencePieceFile::Type::user_defined) continue;
    added += fmt::format("{}\n    {{\"id\": {}, \"content\": {}, \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
                         "\"normalized\": false, \"special\": {}}}", added.empty() ? "" : ",", id, json_string(piece.text), special);
  }
  const char* scheme = file.add_dummy_prefix ? "always" : "never";
  const std::string strip = file.add_dummy_prefix ? ",\n    {\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}" : "";
  return fmt::format("{{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [{}\n  ],\n"
                     "  \"normalizer\": {},\n"
                     "  \"pre_tokenizer\": {{\"type\": \"Metaspace\", \"replacement\": \"▁\", \"prepend_scheme\": \"{}\", \"split\": false}},\n"
                     "  \"post_processor\": null,\n"
                     "  \"decoder\": {{\"type\": \"Sequence\", \"decoders\": [\n"
                     "    {{\"type\": \"Replace\", \"pattern\": {{\"String\": \"▁\"}}, \"content\": \" \"}}, {{\"type\": \"ByteFallback\"}},\n"
                     "    {{\"type\": \"Fuse\"}}{}]}},\n  \"model\": {}\n}}\n",
                     added, normalizer(file), scheme, strip, model.to_json());
}

}  // namespace rhetor
