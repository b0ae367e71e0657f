#include "text/token_model_json.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <atomic>

#include "base/error.h"
#include "text/unigram.h"
#include "text/utf8.h"
#include "text/vocabulary_json.h"
#include "text/word_cache.h"

namespace rhetor {
namespace {

using Json = nlohmann::json;
constexpr std::int64_t kMaxTokens = 1 << 22;
constexpr std::size_t kMaxHoles = 1 << 16;  // ids between 0 and the largest that nobody uses

std::string shown(const Json& value) {
  const std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  const std::size_t end = utf8_cut(text, 60);
  return text.substr(0, end) + (end < text.size() ? "..." : "");
}

// The members of a model, each optional; null counts as absent.
class Members {
 public:
  Members(const Json& model, const std::string& name) : model_(model), name_(name) {}
  const Json* find(const char* key) const {
    const auto found = model_.find(key);
    return found == model_.end() || found->is_null() ? nullptr : &*found;
  }
  const Json& need(const char* key) const {
    const Json* found = find(key);
    if (!found) fail("{}: 'model' has no '{}'", name_, key);
    return *found;
  }
  std::string text(const char* key, const std::string& fallback) const {
    const Json* found = find(key);
    if (!found) return fallback;
    if (!found->is_string()) fail("{}: 'model.{}' must be a text, found {}", name_, key, shown(*found));
    return found->get<std::string>();
  }
  bool flag(const char* key) const {
    const Json* found = find(key);
    if (!found) return false;
    if (!found->is_boolean()) fail("{}: 'model.{}' must be true or false, found {}", name_, key, shown(*found));
    return found->get<bool>();
  }
  std::int64_t number(const char* key, std::int64_t fallback, std::int64_t most) const {
    const Json* found = find(key);
    if (!found) return fallback;
    if (!found->is_number_integer() || *found < 0 || *found > most)
      fail("{}: 'model.{}' must be an integer from 0 to {}, found {}", name_, key, most, shown(*found));
    return found->get<std::int64_t>();
  }

 private:
  const Json& model_;
  const std::string& name_;
};

TokenModelPtr wordpiece(const Members& members, const std::string& name) {
  return make_wordpiece({.vocab = vocabulary_from_json(members.need("vocab"), name),
                         .unknown = members.text("unk_token", "[UNK]"),
                         .prefix = members.text("continuing_subword_prefix", "##"),
                         .max_word_characters = members.number("max_input_chars_per_word", 100, INT32_MAX)});
}

TokenModelPtr word_level(const Members& members, const std::string& name) {
  return make_word_level({.vocab = vocabulary_from_json(members.need("vocab"), name), .unknown = members.text("unk_token", "<unk>")});
}

TokenModelPtr unigram(const Members& members, const std::string& name) {
  const Json& vocab = members.need("vocab");
  if (!vocab.is_array()) fail("{}: 'model.vocab' of a Unigram model must be a list of [text, score], found {}", name, vocab.type_name());
  if (vocab.size() > static_cast<std::size_t>(kMaxTokens)) fail("{}: {} pieces, the limit is {}", name, vocab.size(), kMaxTokens);
  UnigramOptions options;
  options.pieces.reserve(vocab.size());
  for (const Json& entry : vocab) {
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number())
      fail("{}: piece {} must be [text, score], found {}", name, options.pieces.size(), shown(entry));
    options.pieces.emplace_back(entry[0].get<std::string>(), entry[1].get<double>());
  }
  options.unknown = members.find("unk_id") ? static_cast<TokenId>(members.number("unk_id", 0, kMaxTokens)) : -1;
  options.byte_fallback = members.flag("byte_fallback");
  return make_unigram(std::move(options));
}

TokenModelPtr bpe(const Members& members, const std::string& name) {
  if (const Json* dropout = members.find("dropout"); dropout && *dropout != Json(0.0))
    fail("{}: 'model.dropout' is {}; merges left out at random cannot be had here, set it to null", name, shown(*dropout));
  BpeOptions options{.vocab = vocabulary_from_json(members.need("vocab"), name),
                     .unknown = members.text("unk_token", ""),
                     .continuing_prefix = members.text("continuing_subword_prefix", ""),
                     .end_of_word_suffix = members.text("end_of_word_suffix", ""),
                     .fuse_unknown = members.flag("fuse_unk"),
                     .byte_fallback = members.flag("byte_fallback"),
                     .ignore_merges = members.flag("ignore_merges")};
  const Json& merges = members.need("merges");
  if (!merges.is_array()) fail("{}: 'model.merges' must be a list, found {}", name, merges.type_name());
  options.merges.reserve(merges.size());
  for (const Json& merge : merges) options.merges.push_back(merge_from_json(merge, options.merges.size(), name));
  return make_bpe(std::move(options));
}

// Old files have no type.
std::string guessed_kind(const Members& members) {
  if (members.find("merges")) return "BPE";
  const Json* vocab = members.find("vocab");
  if (vocab && vocab->is_array()) return "Unigram";
  return members.find("unk_token") && !members.find("continuing_subword_prefix") ? "WordLevel" : "WordPiece";
}

}  // namespace

std::uint32_t next_model_serial() {
  static std::atomic<std::uint32_t> counter{0};
  std::uint32_t serial = 0;
  while (serial == 0) serial = counter.fetch_add(1) + 1;
  return serial;
}

std::vector<std::string> vocabulary_from_json(const Json& vocab, const std::string& name) {
  if (!vocab.is_object()) fail("{}: the vocabulary must be an object of token: id, found {}", name, vocab.type_name());
  std::vector<std::string> out(vocab.size());
  std::vector<bool> used(vocab.size());
  for (const auto& [text, value] : vocab.items()) {
    if (!value.is_number_integer() || value < 0 || value >= kMaxTokens)
      fail("{}: the id of {} must be an integer from 0 to {}, found {}", name, shown(Json(text)), kMaxTokens - 1, shown(value));
    const auto id = value.get<std::size_t>();
    if (id >= vocab.size() + kMaxHoles) fail("{}: the id {} of {} is far beyond the {} tokens", name, id, shown(Json(text)), vocab.size());
    if (id >= out.size()) {
      out.resize(id + 1);
      used.resize(id + 1);
    }
    if (used[id]) fail("{}: the tokens {} and {} share the id {}", name, shown(Json(out[id])), shown(Json(text)), id);
    used[id] = true;
    out[id] = text;
  }
  return out;
}

std::pair<std::string, std::string> merge_from_json(const Json& merge, std::size_t index, const std::string& name) {
  std::string left, right;
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const std::size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
      left = text.substr(0, space);
      right = text.substr(space + 1);
    }
  } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    left = merge[0].get<std::string>();
    right = merge[1].get<std::string>();
  }
  if (left.empty() || right.empty()) fail("{}: merge {} must be two tokens, found {}", name, index, shown(merge));
  return {std::move(left), std::move(right)};
}

TokenModelPtr token_model_from_json(const Json& model, const std::string& name) {
  if (!model.is_object()) fail("{}: 'model' must be an object, found {}", name, model.type_name());
  const Members members(model, name);
  const std::string kind = members.text("type", guessed_kind(members));
  try {
    if (kind == "WordPiece") return wordpiece(members, name);
    if (kind == "Unigram") return unigram(members, name);
    if (kind == "BPE") return bpe(members, name);
    if (kind == "WordLevel") return word_level(members, name);
  } catch (const Error& error) {
    if (std::string_view(error.what()).starts_with(name)) throw;
    throw Error(error.kind(), name + ": " + error.what());  // make_... does not know the file
  }
  fail("{}: the model type is {}; BPE, Unigram, WordPiece and WordLevel can be read", name, shown(Json(kind)));
}

std::string json_string(std::string_view text) {
  return Json(std::string(text)).dump(-1, ' ', false, Json::error_handler_t::replace);
}

// The shortest digits that read back exactly. Not the JSON library's own, which spends a digit too many on one number in a thousand:
// parsers that are a last bit off on 17 digits (serde_json) then see another score than the file we read.
std::string json_number(double value) { return fmt::format("{}", value); }

std::string json_vocabulary(const std::vector<std::string>& texts) {
  std::string out = "{";
  for (std::size_t id = 0; id < texts.size(); ++id) {
    if (!texts[id].empty()) out += fmt::format("{}\n      {}: {}", out.size() > 1 ? "," : "", json_string(texts[id]), id);
  }
  return out + (out.size() > 1 ? "\n    }" : "}");
}

std::string Unigram::to_json() const {
  std::string pieces;
  for (const auto& [text, score] : options_.pieces)
    pieces += fmt::format("{}\n      [{}, {}]", pieces.empty() ? "" : ",", json_string(text), json_number(score));
  return fmt::format("{{\n    \"type\": \"Unigram\",\n    \"unk_id\": {},\n    \"vocab\": [{}{}],\n    \"byte_fallback\": {}\n  }}",
                     options_.unknown < 0 ? std::string("null") : std::to_string(options_.unknown), pieces, pieces.empty() ? "" : "\n    ",
                     options_.byte_fallback);
}

}  // namespace rhetor
