#include "text/post_processor.h"

#include <algorithm>
#include <unordered_map>

#include "text/batch_encoding.h"
#include "text/unicode.h"

namespace rhetor {

namespace {

constexpr std::size_t kMaxWindowTokens = std::size_t{1} << 27;   // of one text: what a stride close to the length can make of it

void append_encoding(Encoding& to, const Encoding& from) {
  to.ids.insert(to.ids.end(), from.ids.begin(), from.ids.end());
  to.segments.insert(to.segments.end(), from.segments.begin(), from.segments.end());
  to.ranges.insert(to.ranges.end(), from.ranges.begin(), from.ranges.end());
  to.added.insert(to.added.end(), from.added.begin(), from.added.end());
}

void add_token(Encoding& e, TokenId id, std::int32_t segment) {
  e.ids.push_back(id);
  e.segments.push_back(segment);
  e.ranges.push_back({});
  e.added.push_back(1);
}

// Byte-level tokens hold the blank before their word; their ranges need not.
class TrimRanges final : public PostProcessor {
 public:
  TrimRanges(bool prefix_blank, TokenText text) : prefix_blank_(prefix_blank), text_(std::move(text)) {}
  std::size_t added(bool) const override { return 0; }
  void apply(std::vector<EncodedPart>& parts, bool) const override {
    for (EncodedPart& part : parts) {
      trim_all(part.encoding, part.text);
      for (Encoding& window : part.overflow) trim_all(window, part.text);
    }
  }

 private:
  void trim_all(Encoding& e, std::string_view text) const {
    for (std::size_t i = 0; i < e.ids.size(); ++i) {
      if (e.added[i]) continue;
      Encoding::Range& range = e.ranges[i];
      const std::string_view token = text_(e.ids[i]);
      trim(token.empty() ? text.substr(range.begin, range.end - range.begin) : token, i, text, range);
    }
  }
  static bool blank(char32_t c) { return c == 0x120 || has(c, property::space); }   // U+0120 spells the byte 0x20
  void trim(std::string_view token, std::size_t index, std::string_view text, Encoding::Range& range) const {
    std::size_t leading = 0, trailing = 0;
    for (std::size_t at = 0; at < token.size();) {
      const CodePoint c = code_point(token, at);
      if (!blank(c.value)) break;
      ++leading;
      at += c.length;
    }
    for (std::size_t end = token.size(); end > 0;) {
      const CodePoint c = code_point_before(token, end);
      if (!blank(c.value)) break;
      ++trailing;
      end -= c.length;
    }
    // One blank at the very start may be the one that was put there.
    if (leading == 1 && prefix_blank_ && (index == 0 || range.begin == 0)) leading = 0;
    for (; leading > 0 && range.begin < range.end; --leading) {
      do ++range.begin;
      while (range.begin < range.end && (static_cast<unsigned char>(text[range.begin]) & 0xC0) == 0x80);
    }
    for (; trailing > 0 && range.begin < range.end; --trailing) {
      do --range.end;
      while (range.begin < range.end && (static_cast<unsigned char>(text[range.end]) & 0xC0) == 0x80);
    }
  }
  bool prefix_blank_;
  TokenText text_;
};

// A list of pieces: a text of the input or tokens.
class Template final : public PostProcessor {
 public:
  struct Piece {
    int source;                  // 0, 1: the first and the second text; -1: `ids`
    std::int32_t segment;
    std::vector<TokenId> ids;
  };
  // `windows_too`: windows have the segments that the pieces say, else those of their texts (0 and 1), as in `tokenizers`.
  Template(std::vector<Piece> single, std::vector<Piece> pair, bool windows_too = false)
      : single_(std::move(single)), pair_(std::move(pair)), windows_too_(windows_too) {}
  std::size_t added(bool pair) const override {
    std::size_t n = 0;
    for (const Piece& piece : pair ? pair_ : single_) n += piece.ids.size();
    return n;
  }
  void apply(std::vector<EncodedPart>& parts, bool framed) const override {
    std::vector<EncodedPart> out;
    for (const Piece& piece : parts.size() > 1 ? pair_ : single_) {
      if (piece.source < 0 && !framed) continue;
      EncodedPart part;
      for (const TokenId id : piece.ids) add_token(part.encoding, id, piece.segment);
      if (piece.source >= 0 && static_cast<std::size_t>(piece.source) < parts.size()) {
        part = parts[static_cast<std::size_t>(piece.source)];
        std::fill(part.encoding.segments.begin(), part.encoding.segments.end(), piece.segment);
        for (Encoding& window : part.overflow) {
          if (windows_too_) std::fill(window.segments.begin(), window.segments.end(), piece.segment);
        }
      }
      out.push_back(std::move(part));
    }
    parts.swap(out);
  }

 private:
  std::vector<Piece> single_, pair_;
  bool windows_too_;
};

class Chain final : public PostProcessor {
 public:
  explicit Chain(std::vector<PostProcessorPtr> steps) : steps_(std::move(steps)) {}
  std::size_t added(bool pair) const override {
    std::size_t n = 0;
    for (const auto& step : steps_) n += step->added(pair);
    return n;
  }
  void apply(std::vector<EncodedPart>& parts, bool framed) const override {
    for (const auto& step : steps_) step->apply(parts, framed);
  }

 private:
  std::vector<PostProcessorPtr> steps_;
};

class Builder {
 public:
  Builder(const std::string& where, std::int64_t vocab_size, TokenText text) : where_(where), vocab_(vocab_size), text_(std::move(text)) {}

  PostProcessorPtr build(const Json& json) const {
    const JsonPart part(json, where_);
    const std::string type = part.type();
    if (type == "Sequence") {
      std::vector<PostProcessorPtr> steps;
      for (const Json& step : part.list("processors")) steps.push_back(build(step));
      return std::make_unique<Chain>(std::move(steps));
    }
    if (type == "ByteLevel") return trimmer(part);
    if (type == "TemplateProcessing") return from_template(part);
    if (type == "BertProcessing") {
      const TokenId cls = named_id(part, "cls"), sep = named_id(part, "sep");
      return std::make_unique<Template>(pieces({{-1, 0, {cls}}, {0, 0, {}}, {-1, 0, {sep}}}),
                                        pieces({{-1, 0, {cls}}, {0, 0, {}}, {-1, 0, {sep}}, {1, 1, {}}, {-1, 1, {sep}}}));
    }
    if (type == "RobertaProcessing") {
      const TokenId cls = named_id(part, "cls"), sep = named_id(part, "sep");
      std::vector<PostProcessorPtr> steps;
      steps.push_back(trimmer(part));
      steps.push_back(std::make_unique<Template>(pieces({{-1, 0, {cls}}, {0, 0, {}}, {-1, 0, {sep}}}),
                                                 pieces({{-1, 0, {cls}}, {0, 0, {}}, {-1, 0, {sep}}, {-1, 0, {sep}}, {1, 0, {}}, {-1, 0, {sep}}}), true));
      return std::make_unique<Chain>(std::move(steps));
    }
    fail("{} is not a known post-processor; known are TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel and Sequence", part.where());
  }

 private:
  static std::vector<Template::Piece> pieces(std::vector<Template::Piece> list) { return list; }

  PostProcessorPtr trimmer(const JsonPart& part) const {
    if (!part.flag("trim_offsets", true)) return std::make_unique<Chain>(std::vector<PostProcessorPtr>());
    return std::make_unique<TrimRanges>(part.flag("add_prefix_space", true), text_);
  }

  TokenId checked(const Json& id, const JsonPart& part) const {
    if (!id.is_number_integer() || id < 0 || id >= vocab_)
      fail("{}: an id must be an integer from 0 to {}, found {}", part.where(), vocab_ - 1, shown_json(id));
    return id.get<TokenId>();
  }

  // "sep": ["[SEP]", 102]
  TokenId named_id(const JsonPart& part, const char* key) const {
    const Json& value = part.list(key);
    if (value.size() != 2) fail("{}: '{}' must be [text, id], found {}", part.where(), key, shown_json(value));
    return checked(value[1], part);
  }

  PostProcessorPtr from_template(const JsonPart& part) const {
    std::unordered_map<std::string, std::vector<TokenId>> tokens;
    if (part.given("special_tokens")) {
      const Json& table = part.need("special_tokens");
      if (!table.is_object()) fail("{}: 'special_tokens' must be an object, found {}", part.where(), table.type_name());
      for (const auto& [text, entry] : table.items()) {
        const JsonPart token(entry, part.where() + ": special token " + shown(text));
        for (const Json& id : token.list("ids")) tokens[text].push_back(checked(id, token));
      }
    }
    const auto read = [&](const char* key, bool pair) {
      std::vector<Template::Piece> out;
      bool used[2] = {false, false};
      for (const Json& entry : part.list(key)) {
        const bool text = entry.is_object() && entry.contains("Sequence");
        if (!text && !(entry.is_object() && entry.contains("SpecialToken")))
          fail("{}: an entry of '{}' must be a Sequence or a SpecialToken, found {}", part.where(), key, shown_json(entry));
        const JsonPart piece(entry[text ? "Sequence" : "SpecialToken"], part.where() + ": an entry of '" + key + "'");
        const std::string id = piece.text("id");
        Template::Piece made{-1, static_cast<std::int32_t>(piece.given("type_id") ? piece.integer("type_id", 0, 1 << 16) : 0), {}};
        if (text) {
          if (id != "A" && id != "B") fail("{}: a Sequence must be A or B, found {}", part.where(), shown(id));
          made.source = id == "B";
          used[made.source] = true;
        } else {
          const auto found = tokens.find(id);
          if (found == tokens.end()) fail("{}: '{}' names {}, which is not among its special_tokens", part.where(), key, shown(id));
          made.ids = found->second;
        }
        out.push_back(std::move(made));
        if (out.size() > 256) fail("{}: '{}' has more than 256 entries", part.where(), key);
      }
      if (pair && !(used[0] && used[1])) fail("{}: 'pair' must use both A and B", part.where());
      return out;
    };
    auto single = read("single", false);
    auto pair = part.given("pair") ? read("pair", true) : pieces({{0, 0, {}}, {1, 1, {}}});
    return std::make_unique<Template>(std::move(single), std::move(pair));
  }

  const std::string& where_;
  std::int64_t vocab_;
  TokenText text_;
};

}  // namespace

PostProcessorPtr make_role_template(TokenId cls, TokenId sep) {
  using Pieces = std::vector<Template::Piece>;
  const auto ids = [](TokenId id) { return id < 0 ? std::vector<TokenId>() : std::vector<TokenId>{id}; };
  return std::make_unique<Template>(Pieces{{-1, 0, ids(cls)}, {0, 0, {}}, {-1, 0, ids(sep)}},
                                    Pieces{{-1, 0, ids(cls)}, {0, 0, {}}, {-1, 0, ids(sep)}, {1, 1, {}}, {-1, 1, ids(sep)}});
}

std::vector<Encoding> joined(const std::vector<EncodedPart>& parts) {
  std::vector<Encoding> all(1);   // the whole, then its windows
  for (const EncodedPart& part : parts) {
    std::vector<Encoding> next;
    std::size_t tokens = 0;
    const auto join = [&](const Encoding& before, const Encoding& after) {
      tokens += before.ids.size() + after.ids.size();
      if (tokens > kMaxWindowTokens)
        fail(ErrorKind::resource, "the windows over what truncation cuts off hold more than {} tokens together; use a smaller stride or shorter texts",
             kMaxWindowTokens);
      next.push_back(before);
      append_encoding(next.back(), after);
    };
    join(all[0], part.encoding);
    for (std::size_t i = 1; i < all.size(); ++i) {
      join(all[i], part.encoding);
      for (const Encoding& window : part.overflow) join(all[i], window);
    }
    for (const Encoding& window : part.overflow) join(all[0], window);
    all.swap(next);
  }
  return all;
}

PostProcessorPtr make_post_processor(const Json& json, const std::string& where, std::int64_t vocab_size, TokenText text) {
  if (json.is_null()) return nullptr;
  return Builder(where, vocab_size, std::move(text)).build(json);
}

}  // namespace rhetor
