// SentencePiece models (Kudo & Richardson 2018): the same ids and the same decoded text as that program gives. It works on whole texts:
// normalise, cut into pieces, and give each piece the bytes of the original text that it stands for.
#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "base/file.h"
#include "text/sentencepiece_json.h"
#include "text/sentencepiece_parts.h"
#include "text/unigram.h"
#include "text/utf8_walk.h"

namespace rhetor {
namespace {

using Type = SentencePieceFile::Type;

class SentencePiece final : public Tokenizer {
 public:
  SentencePiece(SentencePieceFile file, const std::string& name) : file_(std::move(file)) {
    for (std::size_t i = 0; i < file_.pieces.size(); ++i) {
      const auto& piece = file_.pieces[i];
      const auto id = static_cast<TokenId>(i);
      if (piece.type == Type::user_defined) user_defined_.add(piece.text, id);
      if (piece.type == Type::control) {
        controls_.add(piece.text, id);
        control_ids_.emplace(piece.text, id);
      }
      if (piece.type == Type::byte) bytes_[static_cast<std::size_t>(byte_of_piece(piece.text))] = id;
    }
    user_defined_.build();
    controls_.build();
    normalizer_ = std::make_unique<SentencePieceNormalizer>(file_, name, user_defined_);
    if (file_.algorithm == SentencePieceFile::Algorithm::bpe) {
      bpe_ = std::make_unique<SentencePieceBpe>(file_, user_defined_);
    } else {
      unigram_ = make_model();
    }
  }

  std::string_view kind() const override { return unigram_ ? "Unigram" : "BPE"; }
  std::int64_t vocab_size() const override { return static_cast<std::int64_t>(file_.pieces.size()); }

  std::vector<TokenId> encode(std::string_view text, bool specials) const override {
    std::vector<TokenId> ids;
    ids.reserve(text.size() / 3 + 4);
    encode_to(text, specials, [&](TokenId id, std::size_t, std::size_t) { ids.push_back(id); });
    return ids;
  }

  Encoding encode_ranges(std::string_view text, bool specials) const override {
    Encoding out;
    encode_to(text, specials, [&](TokenId id, std::size_t begin, std::size_t end) {
      out.ids.push_back(id);
      out.ranges.push_back({static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(end)});
    });
    out.segments.assign(out.ids.size(), 0);
    out.added.assign(out.ids.size(), 0);
    return out;
  }

  std::string token_bytes(TokenId id) const override {
    if (id < 0 || id >= vocab_size()) return {};
    const auto& piece = file_.pieces[static_cast<std::size_t>(id)];
    if (piece.type == Type::unknown) return file_.unknown_surface;
    if (piece.type == Type::byte) return std::string(1, static_cast<char>(byte_of_piece(piece.text)));
    return piece.type == Type::control ? piece.text : spaced(piece.text);
  }
  bool is_special(TokenId id) const override { return has_type(id, Type::control); }
  TokenId special(std::string_view text) const override {
    const auto found = control_ids_.find(text);
    return found == control_ids_.end() ? -1 : found->second;
  }
  std::vector<std::string> specials() const override {
    std::vector<std::string> out;
    for (const auto& piece : file_.pieces) {
      if (piece.type == Type::control) out.push_back(piece.text);
    }
    return out;
  }
  std::string to_json() const override {
    if (bpe_) return sentencepiece_json(file_, *make_bpe(bpe_->options()));
    return sentencepiece_json(file_, *unigram_);
  }

  std::string decode(const std::vector<TokenId>& ids, bool keep_specials) const override {
    Stream stream(*this, keep_specials);
    std::string out;
    for (const TokenId id : ids) out += stream.push(id);
    return out + stream.finish();
  }
  std::unique_ptr<TokenStream> stream() const override { return std::make_unique<Stream>(*this, false); }

 private:
  // Decoding leaves out the space that normalisation put in front; bytes that form no character become U+FFFD, one for each.
  class Stream final : public TokenStream {
   public:
    Stream(const SentencePiece& tokenizer, bool keep_specials) : tokenizer_(tokenizer), keep_specials_(keep_specials) {}
    std::string push(TokenId id) override {
      if (id < 0 || id >= tokenizer_.vocab_size()) return {};
      std::string out;
      if (tokenizer_.has_type(id, Type::byte)) {
        pending_ += tokenizer_.token_bytes(id);
        take_characters(out, false);
      } else {
        take_characters(out, true);
        started_ |= !out.empty();
        if (space_seen_ || started_) at_start_ = false;
        out += surface(id);
      }
      started_ |= !out.empty();
      return out;
    }
    std::string finish() override {
      std::string out;
      take_characters(out, true);
      return out;
    }

   private:
    std::string surface(TokenId id) {
      const auto& file = tokenizer_.file_;
      space_seen_ = false;
      if (tokenizer_.is_special(id)) return keep_specials_ ? tokenizer_.token_bytes(id) : std::string();
      if (id == file.unknown) return file.unknown_surface;
      std::string_view text = file.pieces[static_cast<std::size_t>(id)].text;
      if (at_start_ && (file.add_dummy_prefix || file.remove_extra_whitespaces) && text.starts_with(kSpaceSymbol)) {
        text.remove_prefix(kSpaceSymbol.size());
        space_seen_ = !file.remove_extra_whitespaces;  // with it on, all spaces in front go, not only the first
      }
      return spaced(text);
    }
    void take_characters(std::string& out, bool all) {
      std::size_t at = 0;
      while (at < pending_.size()) {
        const Utf8Char c = utf8_char(std::string_view(pending_).substr(at));
        if (c.kind == Utf8::partial && !all) break;
        if (c.kind == Utf8::valid) {
          out.append(pending_, at, static_cast<std::size_t>(c.length));
          at += static_cast<std::size_t>(c.length);
        } else {
          out += "\uFFFD";
          ++at;
        }
      }
      pending_.erase(0, at);
    }

    const SentencePiece& tokenizer_;
    bool keep_specials_;
    std::string pending_;                                            // bytes of a character that is not complete
    bool started_ = false, at_start_ = true, space_seen_ = false;    // text has come out; still where the space in front would be
  };

  bool has_type(TokenId id, Type type) const {
    return id >= 0 && id < vocab_size() && file_.pieces[static_cast<std::size_t>(id)].type == type;
  }

  static std::string spaced(std::string_view text) {
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t next = text.find(kSpaceSymbol, at);
      out += text.substr(at, next - at);
      if (next == text.npos) break;
      out += ' ';
      at = next + kSpaceSymbol.size();
    }
    return out;
  }

  std::shared_ptr<const Unigram> make_model() const {
    UnigramOptions options{.unknown = file_.unknown, .byte_fallback = file_.byte_fallback};
    UnigramRules rules{.sentencepiece = true};
    for (const auto& piece : file_.pieces) {
      options.pieces.emplace_back(piece.text, piece.score);
      rules.kinds.push_back(piece.type == Type::normal         ? UnigramRules::Kind::normal
                            : piece.type == Type::user_defined ? UnigramRules::Kind::user_defined
                                                               : UnigramRules::Kind::hidden);
    }
    return std::make_shared<Unigram>(std::move(options), std::move(rules));
  }

  // put(id, begin, end) for each token. Control pieces cut the text only if `specials`.
  template <class Put>
  void encode_to(std::string_view text, bool specials, Put&& put) const {
    std::size_t done = 0;
    for (std::size_t at = 0; specials && !control_ids_.empty() && at < text.size();) {
      const auto match = controls_.find(text.substr(at));
      if (match.length == 0) {
        ++at;
        continue;
      }
      encode_plain(text, done, at, put);
      put(match.id, at, at + match.length);
      done = at += match.length;
    }
    encode_plain(text, done, text.size(), put);
  }

  template <class Put>
  void encode_plain(std::string_view text, std::size_t begin, std::size_t end, Put&& put) const {
    if (begin == end) return;
    if (end - begin > UINT32_MAX / 32) fail("a text of {} bytes is too long for a SentencePiece tokenizer; cut it", end - begin);
    thread_local NormalizedText normal;
    thread_local std::vector<Piece> pieces;
    normalizer_->apply(text.substr(begin, end - begin), normal);
    pieces.clear();
    if (unigram_) {
      unigram_->tokenize(normal.text, pieces);
    } else {
      bpe_->tokenize(normal.text, pieces);
    }
    const auto origin = [&](std::uint32_t at) { return begin + normal.origin[at]; };
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      Piece piece = pieces[i];
      if (!unigram_ && piece.id == file_.unknown) {
        if (file_.byte_fallback) {
          for (std::uint32_t at = piece.begin; at < piece.end; ++at)
            put(bytes_[static_cast<unsigned char>(normal.text[at])], origin(piece.begin), origin(piece.end));
          continue;
        }
        // Unknown characters that follow each other are one token.
        for (; i + 1 < pieces.size() && pieces[i + 1].id == file_.unknown; ++i) piece.end = pieces[i + 1].end;
      }
      put(piece.id, origin(piece.begin), origin(piece.end));
    }
  }

  SentencePieceFile file_;
  LongestPrefix user_defined_, controls_;
  std::unordered_map<std::string_view, TokenId> control_ids_;  // views of file_
  TokenId bytes_[256] = {};
  std::unique_ptr<SentencePieceNormalizer> normalizer_;
  std::shared_ptr<const Unigram> unigram_;                     // one of the two
  std::unique_ptr<SentencePieceBpe> bpe_;
};

}  // namespace

TokenizerPtr sentencepiece_from_bytes(std::string_view bytes, const std::string& name) {
  return std::make_shared<SentencePiece>(read_sentencepiece(bytes, name), name);
}

TokenizerPtr load_sentencepiece(const std::filesystem::path& model) {
  return sentencepiece_from_bytes(read_file(model, 64u << 20), model.string());
}

}  // namespace rhetor
