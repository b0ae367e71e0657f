// tokenizer.json in the shape of Hugging Face's `tokenizers`: read as untrusted input. Byte-level BPE as Rhetor trains it has its own
// reader and writer here, with token strings in GPT-2's byte alphabet; every other composition becomes a pipeline.
#include <fmt/core.h>

#include <algorithm>

#include "base/error.h"
#include "text/byte_alphabet.h"
#include "text/byte_bpe.h"
#include "text/json_reader.h"
#include "text/pipeline_parts.h"
#include "text/text_cutter.h"
#include "text/token_model_json.h"

namespace rhetor {
namespace {

constexpr std::size_t kMaxTokens = 1 << 22;
constexpr std::size_t kMaxHoles = 1 << 16;       // ids between 0 and the largest that nobody uses
constexpr std::size_t kMaxAddedBytes = 512;      // of the text of one added token

class Reader {
 public:
  explicit Reader(const std::string& name) : name_(name) {}

  BpeModel read(const Json& root) {
    const Json& model = member(root, "model", "the file");
    if (!model.is_object()) fail("{}: 'model' must be an object, found {}", name_, model.type_name());
    read_added(root);
    read_vocab(member(model, "vocab", "'model'"));
    fill_added();
    read_merges(member(model, "merges", "'model'"));
    return std::move(out_);
  }

 private:
  const Json& member(const Json& object, const char* key, const char* where) const {
    const auto found = object.find(key);
    if (found == object.end()) fail("{}: {} has no '{}'", name_, where, key);
    return *found;
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

// Whether a file is what ByteBpe is: GPT-2's words, no normaliser and no template, every byte in the vocabulary, plain added tokens.
bool is_byte_bpe(const Json& root) {
  const auto is = [](const Json& object, const char* key, const Json& expected, const Json& otherwise) {
    const auto found = object.find(key);
    return (found == object.end() ? otherwise : *found) == expected;
  };
  const Json &pre = member_or_null(root, "pre_tokenizer"), &decoder = member_or_null(root, "decoder"), &model = root["model"];
  for (const char* key : {"normalizer", "post_processor", "truncation", "padding"}) {
    if (!member_or_null(root, key).is_null()) return false;
  }
  if (!pre.is_object() || !is(pre, "type", "ByteLevel", {}) || !is(pre, "add_prefix_space", false, true) || !is(pre, "use_regex", true, true)) return false;
  if (!decoder.is_object() || !is(decoder, "type", "ByteLevel", {})) return false;
  if (!is(model, "type", "BPE", "BPE") || !model.contains("merges")) return false;
  for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"}) {
    const Json& option = member_or_null(model, key);
    if (!option.is_null() && option != Json(false) && option != Json("") && option != Json(0.0)) return false;
  }
  if (const Json& added = member_or_null(root, "added_tokens"); added.is_array()) {
    for (const Json& token : added) {
      for (const char* flag : {"single_word", "lstrip", "rstrip"}) {
        if (token.is_object() && !is(token, flag, false, false)) return false;
      }
    }
  }
  const Json& vocab = member_or_null(model, "vocab");
  if (!vocab.is_object()) return false;
  for (unsigned byte = 0; byte < 256; ++byte) {
    if (!vocab.contains(spelled(std::string(1, static_cast<char>(byte))))) return false;
  }
  return true;
}

}  // namespace

TokenizerPtr tokenizer_from_json(std::string_view json, const std::string& name) {
  const Json root = parse_json(json, name);
  if (!root.is_object()) fail("{}: expected a JSON object as Hugging Face's tokenizers writes it, found {}", name, root.type_name());
  const auto model = root.find("model");
  if (model == root.end()) fail("{}: the file has no 'model'", name);
  if (!model->is_object()) fail("{}: 'model' must be an object, found {}", name, model->type_name());
  if (is_byte_bpe(root)) return std::make_shared<ByteBpe>(Reader(name).read(root));
  return make_pipeline(token_model_from_json(*model, name), root, name);
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
