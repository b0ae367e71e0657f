// tokenizer.json in the shape of Hugging Face's `tokenizers`: written so that it loads there with the same ids, and read as
// untrusted input. Token strings are spelled with GPT-2's byte alphabet, in which every byte is a printable character.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include <algorithm>

#include "base/error.h"
#include "text/byte_bpe.h"
#include "text/utf8.h"

namespace rhetor {
namespace {

using Json = nlohmann::json;
constexpr std::size_t kMaxTokens = 1 << 22;
constexpr std::size_t kMaxHoles = 1 << 16;       // ids between 0 and the largest that nobody uses
constexpr std::size_t kMaxAddedBytes = 512;      // of the text of one added token
constexpr int kMaxDepth = 32;

// Byte -> code point: printable Latin-1 characters stand for themselves, the other 68 bytes become U+0100, U+0101, ...
struct ByteAlphabet {
  std::array<std::uint16_t, 256> to_code{};
  std::array<std::int16_t, 512> to_byte{};
  ByteAlphabet() {
    to_byte.fill(-1);
    std::uint16_t next = 256;
    for (unsigned byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      to_code[byte] = printable ? static_cast<std::uint16_t>(byte) : next++;
      to_byte[to_code[byte]] = static_cast<std::int16_t>(byte);
    }
  }
};

const ByteAlphabet& alphabet() {
  static const ByteAlphabet instance;
  return instance;
}

std::string spelled(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) {
    const unsigned code = alphabet().to_code[static_cast<unsigned char>(c)];
    if (code < 0x80) {
      out += static_cast<char>(code);
    } else {
      out += static_cast<char>(0xC0 | code >> 6);
      out += static_cast<char>(0x80 | (code & 0x3F));
    }
  }
  return out;
}

// False if a character is not of the alphabet.
bool unspelled(std::string_view text, std::string& bytes) {
  bytes.clear();
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned code = static_cast<unsigned char>(text[i]);
    if (code >= 0x80) {
      if ((code & 0xE0) != 0xC0 || i + 1 == text.size()) return false;
      code = (code & 0x1F) << 6 | (static_cast<unsigned char>(text[++i]) & 0x3F);
    }
    if (code >= alphabet().to_byte.size() || alphabet().to_byte[code] < 0) return false;
    bytes += static_cast<char>(alphabet().to_byte[code]);
  }
  return true;
}

// A short quotation of untrusted text for a message.
std::string shown(std::string_view text) {
  const std::size_t end = utf8_cut(text, 40);
  return Json(std::string(text.substr(0, end))).dump(-1, ' ', true, Json::error_handler_t::replace) + (end < text.size() ? "..." : "");
}

class Reader {
 public:
  explicit Reader(const std::string& name) : name_(name) {}

  BpeModel read(std::string_view text) {
    const Json root = parse(text);
    if (!root.is_object()) fail("{}: expected a JSON object as Hugging Face's tokenizers writes it, found {}", name_, root.type_name());
    const Json& model = member(root, "model", "the file");
    if (!model.is_object()) fail("{}: 'model' must be an object, found {}", name_, model.type_name());
    check_kind(root, model);
    read_added(root);
    read_vocab(member(model, "vocab", "'model'"));
    fill_added();
    read_merges(member(model, "merges", "'model'"));
    return std::move(out_);
  }

 private:
  Json parse(std::string_view text) const {
    const auto guard = [&](int depth, Json::parse_event_t, Json&) {
      if (depth > kMaxDepth) fail("{}: brackets are nested deeper than {} levels, which no tokenizer file is", name_, kMaxDepth);
      return true;
    };
    try {
      return Json::parse(text, guard);
    } catch (const Json::parse_error& error) {
      fail("{}: not valid JSON near byte {}; the file is damaged or is something else", name_, error.byte);
    } catch (const Json::out_of_range&) {   // the parser's word for a number no double can hold
      fail("{}: holds a number too large to be one; the file is damaged or is something else", name_);
    }
  }

  const Json& member(const Json& object, const char* key, const char* where) const {
    const auto found = object.find(key);
    if (found == object.end()) fail("{}: {} has no '{}'", name_, where, key);
    return *found;
  }

  // Refuses what would silently give other ids than the file's author expects.
  void check_kind(const Json& root, const Json& model) const {
    const auto type = [](const Json& j) {
      return j.is_object() && j.contains("type") && j["type"].is_string() ? j["type"].get<std::string>() : std::string();
    };
    if (model.contains("type") && type(model) != "BPE")
      fail("{}: the model type is {}, only \"BPE\" (byte-level) can be read", name_, shown(model["type"].dump()));
    const Json none;
    const Json& pre = root.contains("pre_tokenizer") ? root["pre_tokenizer"] : none;
    if (type(pre) != "ByteLevel")
      fail("{}: 'pre_tokenizer' must have the type \"ByteLevel\" (GPT-2's), found {}", name_, shown(pre.dump()));
    if (pre.value("add_prefix_space", Json(false)) != Json(false))
      fail("{}: 'pre_tokenizer' has add_prefix_space on, which would change the text; only false can be read", name_);
    if (pre.value("use_regex", Json(true)) != Json(true))
      fail("{}: 'pre_tokenizer' has use_regex off; only GPT-2's pattern can be read", name_);
    if (root.contains("normalizer") && !root["normalizer"].is_null())
      fail("{}: has a normalizer, which would change the text; only null can be read", name_);
    for (const char* key : {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"}) {
      const auto found = model.find(key);
      if (found == model.end() || found->is_null() || *found == Json(false) || *found == Json("") || *found == Json(0.0)) continue;
      if (std::string_view(key) == "unk_token") continue;  // never used: every byte has a token
      fail("{}: the option 'model.{}' is {}, which byte-level BPE here does not have", name_, key, shown(found->dump()));
    }
  }

  void read_added(const Json& root) {
    const auto list = root.find("added_tokens");
    if (list == root.end() || list->is_null()) return;
    if (!list->is_array()) fail("{}: 'added_tokens' must be a list, found {}", name_, list->type_name());
    for (std::size_t i = 0; i < list->size(); ++i) {
      const Json& entry = (*list)[i];
      if (!entry.is_object()) fail("{}: added token {} must be an object, found {}", name_, i, entry.type_name());
      const auto content = entry.find("content");
      if (content == entry.end() || !content->is_string() || content->get_ref<const std::string&>().empty())
        fail("{}: added token {} has no text in 'content'", name_, i);
      const auto& text = content->get_ref<const std::string&>();
      if (text.size() > kMaxAddedBytes) fail("{}: added token {} has {} bytes, the limit is {}", name_, i, text.size(), kMaxAddedBytes);
      for (const char* flag : {"single_word", "lstrip", "rstrip"}) {
        if (entry.value(flag, Json(false)) != Json(false))
          fail("{}: added token {} ({}) has '{}' on; only false can be read", name_, i, shown(text), flag);
      }
      if (!added_ids_.emplace(text, out_.added.size()).second) fail("{}: the added token {} appears twice", name_, shown(text));
      const auto special = entry.value("special", Json(false));
      if (!special.is_boolean()) fail("{}: 'special' of added token {} must be true or false", name_, i);
      out_.added.push_back({id_of(entry.contains("id") ? entry["id"] : Json(), text), text, special.get<bool>()});
    }
  }

  TokenId id_of(const Json& value, const std::string& token) const {
    if (!value.is_number_integer() || value < 0 || value >= kMaxTokens)
      fail("{}: the id of {} must be an integer from 0 to {}, found {}", name_, shown(token), kMaxTokens - 1, shown(value.dump()));
    return value.get<TokenId>();
  }

  void read_vocab(const Json& vocab) {
    if (!vocab.is_object()) fail("{}: 'model.vocab' must be an object of token: id, found {}", name_, vocab.type_name());
    const std::size_t count = vocab.size() + out_.added.size();
    for (const auto& added : out_.added) reserve_id(added.id, count, added.text);
    std::string bytes;
    for (const auto& [text, value] : vocab.items()) {
      const TokenId id = id_of(value, text);
      reserve_id(id, count, text);
      const auto added = added_ids_.find(text);
      if (added != added_ids_.end()) {
        if (out_.added[added->second].id != id)
          fail("{}: {} has the id {} in the vocabulary and {} among the added tokens", name_, shown(text), id, out_.added[added->second].id);
        continue;  // fill_added() enters it
      }
      if (text.empty()) fail("{}: the vocabulary has an empty token (id {})", name_, id);
      if (!unspelled(text, bytes))
        fail("{}: the token {} is not spelled in GPT-2's byte alphabet, so this is no byte-level vocabulary", name_, shown(text));
      claim(id, bytes);
      ids_.emplace(std::move(bytes), id);
    }
    for (unsigned byte = 0; byte < 256; ++byte) {
      const auto found = ids_.find(std::string(1, static_cast<char>(byte)));
      if (found == ids_.end()) fail("{}: no token for the byte 0x{:02X}; a byte-level vocabulary has all 256", name_, byte);
      out_.byte_ids[byte] = found->second;
    }
  }

  void reserve_id(TokenId id, std::size_t count, const std::string& token) {
    const auto at = static_cast<std::size_t>(id);
    if (at >= count + kMaxHoles) fail("{}: the id {} of {} is far beyond the {} tokens of the file", name_, id, shown(token), count);
    if (at >= out_.tokens.size()) out_.tokens.resize(at + 1);
  }

  void claim(TokenId id, const std::string& bytes) {
    auto& slot = out_.tokens[static_cast<std::size_t>(id)];
    if (!slot.empty()) fail("{}: the tokens {} and {} share the id {}", name_, shown(slot), shown(bytes), id);
    slot = bytes;
  }

  void fill_added() {
    special_ids_.resize(out_.tokens.size());
    for (const auto& added : out_.added) {
      // A plain added token may repeat an ordinary one; a special one must not, or ordinary text could produce it.
      const auto same = ids_.find(added.text);
      if (same != ids_.end() && same->second == added.id && !added.special) continue;
      claim(added.id, added.text);
      special_ids_[static_cast<std::size_t>(added.id)] = added.special;
    }
  }

  void read_merges(const Json& merges) {
    if (!merges.is_array()) fail("{}: 'model.merges' must be a list, found {}", name_, merges.type_name());
    FlatTable seen(merges.size());
    std::string left, right;
    for (std::size_t i = 0; i < merges.size(); ++i) {
      split(merges[i], i, left, right);
      const TokenId l = token(left, i), r = token(right, i), result = token(left + right, i);
      if (!seen.insert(pair_key(l, r), 0)) fail("{}: merge {} ({} {}) appears twice", name_, i, shown(spelled(left)), shown(spelled(right)));
      out_.merges.push_back({l, r, result});
    }
  }

  // "a b" (the classic form) or ["a", "b"] (since tokenizers 0.20).
  void split(const Json& merge, std::size_t index, std::string& left, std::string& right) const {
    std::string a, b;
    if (merge.is_string()) {
      const auto& text = merge.get_ref<const std::string&>();
      const std::size_t space = text.find(' ');
      if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
        a = text.substr(0, space);
        b = text.substr(space + 1);
      }
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      a = merge[0].get<std::string>();
      b = merge[1].get<std::string>();
    }
    if (a.empty() || b.empty() || !unspelled(a, left) || !unspelled(b, right))
      fail("{}: merge {} must be two tokens, found {}", name_, index,
           shown(merge.dump(-1, ' ', false, Json::error_handler_t::replace)));
  }

  TokenId token(const std::string& bytes, std::size_t merge) const {
    const auto found = ids_.find(bytes);
    if (found == ids_.end()) fail("{}: merge {} names {}, which is not in the vocabulary", name_, merge, shown(spelled(bytes)));
    return found->second;
  }

  const std::string& name_;
  BpeModel out_;
  std::unordered_map<std::string, TokenId> ids_;              // ordinary tokens by their bytes
  std::unordered_map<std::string, std::size_t> added_ids_;    // text -> index in out_.added
  std::vector<bool> special_ids_;
};

}  // namespace

TokenizerPtr tokenizer_from_json(std::string_view json, const std::string& name) {
  return std::make_shared<ByteBpe>(Reader(name).read(json));
}

std::string ByteBpe::to_json() const {
  const auto escaped = [](const std::string& text) { return Json(text).dump(); };
  std::string out = "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [";
  std::vector<bool> is_added(model_.tokens.size());
  auto added = model_.added;
  std::sort(added.begin(), added.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  for (std::size_t i = 0; i < added.size(); ++i) {
    is_added[static_cast<std::size_t>(added[i].id)] = true;
    out += fmt::format("{}\n    {{\"id\": {}, \"content\": {}, \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
                       "\"normalized\": false, \"special\": {}}}",
                       i ? "," : "", added[i].id, escaped(added[i].text), added[i].special);
  }
  out += "\n  ],\n  \"normalizer\": null,\n"
         "  \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true},\n"
         "  \"post_processor\": null,\n"
         "  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true},\n"
         "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
         "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": false,\n"
         "    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n    \"vocab\": {";
  bool first = true;
  for (std::size_t id = 0; id < model_.tokens.size(); ++id) {
    if (model_.tokens[id].empty()) continue;
    out += fmt::format("{}\n      {}: {}", first ? "" : ",", escaped(is_added[id] ? model_.tokens[id] : spelled(model_.tokens[id])), id);
    first = false;
  }
  out += "\n    },\n    \"merges\": [";
  for (std::size_t i = 0; i < model_.merges.size(); ++i) {
    const auto& merge = model_.merges[i];
    const std::string pair = spelled(model_.tokens[static_cast<std::size_t>(merge.left)]) + " " +
                             spelled(model_.tokens[static_cast<std::size_t>(merge.right)]);
    out += fmt::format("{}\n      {}", i ? "," : "", escaped(pair));
  }
  out += "\n    ]\n  }\n}\n";
  return out;
}

}  // namespace rhetor
