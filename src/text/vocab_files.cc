// Vocabularies in the files of the first BERT and GPT-2 releases. They say nothing about normalising and cutting words, so both get the
// pipeline of those models, written as tokenizer.json and read from there.
#include <fmt/core.h>

#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "base/file.h"
#include "text/json_reader.h"
#include "text/token_model.h"
#include "text/token_model_json.h"
#include "text/utf8.h"
#include "text/vocabulary_json.h"

namespace rhetor {
namespace {

constexpr std::uint64_t kMaxBytes = 64u << 20;
constexpr std::size_t kMaxLines = 1 << 22;

std::vector<std::string> lines_of(const std::filesystem::path& path) {
  const std::string text = read_file(path, kMaxBytes);
  if (const std::size_t valid = utf8_valid_prefix(text); valid != text.size())
    fail("{}: byte {} is not UTF-8; expected a text file with one entry a line", path.string(), valid);
  std::vector<std::string> lines;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ' || line.back() == '\t')) line.pop_back();
    if (lines.size() == kMaxLines) fail("{}: more than {} lines, which no vocabulary has", path.string(), kMaxLines);
    lines.push_back(std::move(line));
    at = end + 1;
  }
  return lines;
}

TokenId id_in(const std::vector<std::string>& vocab, std::string_view text) {
  const auto found = std::find(vocab.begin(), vocab.end(), text);
  return found == vocab.end() ? -1 : static_cast<TokenId>(found - vocab.begin());
}

std::string added_token(std::string_view text, TokenId id) {
  return fmt::format("{{\"id\": {}, \"content\": {}, \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, "
                     "\"special\": true}}", id, json_string(text));
}

// "[CLS] a [SEP] b [SEP]", if the vocabulary has those.
std::string bert_template(TokenId open, TokenId close) {
  if (open < 0 || close < 0) return "null";
  const auto special = [](const char* text, int segment) { return fmt::format("{{\"SpecialToken\": {{\"id\": \"{}\", \"type_id\": {}}}}}", text, segment); };
  const std::string first = special("[CLS]", 0) + ", {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, " + special("[SEP]", 0);
  return fmt::format("{{\"type\": \"TemplateProcessing\", \"single\": [{0}],\n    \"pair\": [{0}, {{\"Sequence\": {{\"id\": \"B\", \"type_id\": 1}}}}, {1}],\n"
                     "    \"special_tokens\": {{\"[CLS]\": {{\"id\": \"[CLS]\", \"ids\": [{2}], \"tokens\": [\"[CLS]\"]}}, "
                     "\"[SEP]\": {{\"id\": \"[SEP]\", \"ids\": [{3}], \"tokens\": [\"[SEP]\"]}}}}}}",
                     first, special("[SEP]", 1), open, close);
}

}  // namespace

TokenizerPtr load_vocab_txt(const std::filesystem::path& path, bool lower_case) {
  std::vector<std::string> vocab = lines_of(path);
  std::unordered_map<std::string_view, std::size_t> seen;
  for (std::size_t id = 0; id < vocab.size(); ++id) {
    const auto [entry, is_new] = seen.emplace(vocab[id], id);
    if (!is_new && !vocab[id].empty()) {  // of equal lines the last counts, as in `tokenizers`
      vocab[entry->second].clear();
      seen.erase(entry);
      seen.emplace(vocab[id], id);
    }
  }
  if (id_in(vocab, "[UNK]") < 0)
    fail("{}: not a BERT vocabulary: no line is [UNK], the unknown token; expected one token a line", path.string());
  std::string added;
  for (const char* special : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}) {
    if (const TokenId id = id_in(vocab, special); id >= 0) added += (added.empty() ? "\n    " : ",\n    ") + added_token(special, id);
  }
  const std::string model = make_wordpiece({.vocab = vocab})->to_json();
  return tokenizer_from_json(
      fmt::format("{{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [{}],\n"
                  "  \"normalizer\": {{\"type\": \"BertNormalizer\", \"clean_text\": true, \"handle_chinese_chars\": true, "
                  "\"strip_accents\": null, \"lowercase\": {}}},\n  \"pre_tokenizer\": {{\"type\": \"BertPreTokenizer\"}},\n"
                  "  \"post_processor\": {},\n  \"decoder\": {{\"type\": \"WordPiece\", \"prefix\": \"##\", \"cleanup\": true}},\n  \"model\": {}\n}}\n",
                  added, lower_case, bert_template(id_in(vocab, "[CLS]"), id_in(vocab, "[SEP]")), model),
      path.string());
}

TokenizerPtr load_vocab_merges(const std::filesystem::path& vocab_json, const std::filesystem::path& merges_txt) {
  const std::string name = vocab_json.string();
  BpeOptions options{.vocab = vocabulary_from_json(parse_json(read_file(vocab_json, kMaxBytes), name), name)};
  for (const std::string& line : lines_of(merges_txt)) {
    if (line.empty() || line.starts_with("#version")) continue;
    options.merges.push_back(merge_from_json(Json(line), options.merges.size(), merges_txt.string()));
  }
  std::string added;
  if (const TokenId id = id_in(options.vocab, "<|endoftext|>"); id >= 0) added = added_token("<|endoftext|>", id);
  std::string model;
  try {
    model = make_bpe(std::move(options))->to_json();
  } catch (const Error& error) {
    fail("{}: {}", merges_txt.string(), error.what());
  }
  constexpr std::string_view bytes = R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true})";
  return tokenizer_from_json(
      fmt::format("{{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [{}],\n  \"normalizer\": null,\n"
                  "  \"pre_tokenizer\": {},\n  \"post_processor\": null,\n  \"decoder\": {},\n  \"model\": {}\n}}\n", added, bytes, bytes, model),
      name);
}

}  // namespace rhetor
