#include "text/pipeline.h"

#include <fmt/core.h>

#include <algorithm>
#include <atomic>

#include "text/byte_alphabet.h"
#include "text/decoder.h"
#include "text/piece_cache.h"
#include "text/pipeline_parts.h"
#include "text/post_processor.h"
#include "text/text_cutter.h"
#include "text/utf8.h"

namespace rhetor {
namespace {

constexpr std::size_t kMaxText = std::size_t{1} << 31;

std::uint32_t next_owner() {
  static std::atomic<std::uint32_t> counter{0};
  return counter.fetch_add(1) + 1;
}

struct Work {
  CutWork cut, rest;                   // of a text; of one of its words
  std::vector<Piece> parts;            // of a word that the rest of the pre-tokenisers cut
  std::vector<Piece> pieces;
  std::string spelled;
  std::vector<std::uint32_t> places;   // byte of the spelled word -> byte of the word
};
Work& work() {
  thread_local Work instance;
  return instance;
}

class Pipeline final : public Tokenizer {
 public:
  Pipeline(TokenModelPtr model, const Json& root, const std::string& name)
      : model_(std::move(model)),
        cutter_(root, name),
        decoder_(make_decoder(member_or_null(root, "decoder"), name + ": decoder")),
        vocab_size_(checked_size(name)),
        post_(make_post_processor(member_or_null(root, "post_processor"), name + ": post_processor", vocab_size_,
                                  [this](TokenId id) { return cutter_.added().by_id(id) ? std::string_view() : model_->token(id); })),
        truncation_(read_truncation(member_or_null(root, "truncation"), name)),
        padding_(read_padding(member_or_null(root, "padding"), name)),
        parts_(parts_as_json(root, cutter_.added())) {}

  std::string_view kind() const override { return model_->kind(); }
  std::int64_t vocab_size() const override { return vocab_size_; }

  std::vector<TokenId> encode(std::string_view text, bool specials) const override {
    std::vector<TokenId> out;
    out.reserve(text.size() / 4 + 4);
    run(text, specials, [&](TokenId id, Encoding::Range) { out.push_back(id); }, false);
    return out;
  }

  Encoding encode_ranges(std::string_view text, bool specials) const override {
    Encoding out;
    run(text, specials, [&](TokenId id, Encoding::Range range) {
      out.ids.push_back(id);
      out.ranges.push_back(range);
    }, true);
    out.segments.assign(out.ids.size(), 0);
    out.added.assign(out.ids.size(), 0);
    return out;
  }

  std::vector<Encoding> encode_windows(std::string_view text, const std::string_view* pair, const WindowOptions& options) const override {
    if (!post_) return Tokenizer::encode_windows(text, pair, options);
    std::vector<EncodedPart> parts;
    parts.push_back({encode_ranges(text, options.specials), text, {}});
    if (pair) parts.push_back({encode_ranges(*pair, options.specials), *pair, {}});
    return windows_of(std::move(parts), options, post_.get());
  }
  const Truncation* truncation() const override { return truncation_ ? &*truncation_ : nullptr; }
  const Padding* padding() const override { return padding_ ? &*padding_ : nullptr; }

  std::string token_bytes(TokenId id) const override {
    const AddedToken* added = cutter_.added().by_id(id);
    if (added) return added->text;
    const std::string token(model_->token(id));
    if (token.empty()) return {};
    if (const int byte = decoder_.bytes_from_names ? byte_of_name(token) : -1; byte >= 0) return std::string(1, static_cast<char>(byte));
    if (std::string bytes; decoder_.bytes_from_alphabet && unspelled(token, bytes)) return bytes;
    // In the middle of a text: what it adds between two others.
    const std::string around = decoded({"a", "a"}), with = decoded({"a", token, "a"});
    return with.size() > around.size() ? with.substr(1, with.size() - around.size()) : std::string();
  }

  bool is_special(TokenId id) const override {
    const AddedToken* added = as_added(id);
    return added && added->special;
  }
  TokenId special(std::string_view text) const override {
    const AddedToken* added = cutter_.added().by_text(text);
    return added && added->special ? added->id : -1;
  }
  std::vector<std::string> specials() const override {
    std::vector<std::string> out;
    for (const AddedToken& token : cutter_.added().list()) {
      if (token.special) out.push_back(token.text);
    }
    return out;
  }

  std::string to_json() const override { return parts_ + "  \"model\": " + model_->to_json() + "\n}\n"; }

  std::string decode(const std::vector<TokenId>& ids, bool keep_specials) const override {
    DecodeChain chain(decoder_);
    for (const TokenId id : ids) {
      if (const std::string_view text = decodable(id, keep_specials); !text.empty()) chain.push(std::string(text));
    }
    chain.finish();
    return chain.take();
  }

  std::unique_ptr<TokenStream> stream() const override { return std::make_unique<Stream>(*this); }

 private:
  class Stream final : public TokenStream {
   public:
    explicit Stream(const Pipeline& tokenizer) : tokenizer_(tokenizer), chain_(tokenizer.decoder_) {}
    std::string push(TokenId id) override {
      const std::string_view text = tokenizer_.decodable(id, false);
      if (!text.empty()) chain_.push(std::string(text));
      return chain_.take();
    }
    std::string finish() override {
      chain_.finish();
      return chain_.take();
    }

   private:
    const Pipeline& tokenizer_;
    DecodeChain chain_;
  };

  // An added token counts by its text: a Unigram vocabulary may hold "<unk>" a second time.
  const AddedToken* as_added(TokenId id) const {
    const AddedToken* added = cutter_.added().by_id(id);
    const std::string_view text = added ? std::string_view() : model_->token(id);
    return text.empty() ? added : cutter_.added().by_text(text);
  }
  std::string_view decodable(TokenId id, bool keep_specials) const {
    const AddedToken* added = as_added(id);
    if (!added) return model_->token(id);
    return added->special && !keep_specials ? std::string_view() : std::string_view(added->form);
  }
  std::string decoded(const std::vector<std::string>& tokens) const {
    DecodeChain chain(decoder_);
    for (const std::string& token : tokens) chain.push(token);
    chain.finish();
    return chain.take();
  }

  // Added tokens lie beside the vocabulary, or are tokens of it with the same id.
  std::int64_t checked_size(const std::string& name) const {
    std::int64_t size = model_->size();
    const std::int64_t most = size + static_cast<std::int64_t>(cutter_.added().list().size()) + (1 << 16);
    for (const AddedToken& token : cutter_.added().list()) {
      const TokenId known = model_->id(token.text);
      if (known >= 0 && known != token.id)
        fail("{}: {} has the id {} in the vocabulary and {} among the added tokens", name, shown(token.text), known, token.id);
      const std::string_view there = model_->token(token.id);
      if (!there.empty() && there != token.text) fail("{}: the tokens {} and {} share the id {}", name, shown(there), shown(token.text), token.id);
      if (token.id >= most) fail("{}: the id {} of {} is far beyond the {} tokens of the file", name, token.id, shown(token.text), model_->size());
      size = std::max<std::int64_t>(size, token.id + std::int64_t{1});
    }
    return size;
  }

  // Calls emit(id, range of the original).
  template <class Emit>
  void run(std::string_view text, bool specials, Emit&& emit, bool tracked) const {
    if (text.size() >= kMaxText) fail(ErrorKind::resource, "a text of {} bytes is too long for one piece; cut it into parts below 2 GiB", text.size());
    if (utf8_valid_prefix(text) == text.size()) return run_valid(text, specials, emit, tracked);
    // Bytes that are no UTF-8 become U+FFFD; ranges lead back to them.
    std::vector<std::uint32_t> back;
    const std::string cleaned = utf8_cleaned(text, back);
    run_valid(cleaned, specials, [&](TokenId id, Encoding::Range range) { emit(id, Encoding::Range{back[range.begin], back[range.end]}); }, tracked);
  }

  template <class Emit>
  void run_valid(std::string_view text, bool specials, Emit&& emit, bool tracked) const {
    Work& w = work();
    PieceCache& cache = PieceCache::of_this_thread();
    cutter_.cut(text, specials, tracked, w.cut, [&](const AddedToken& token, Encoding::Range range) { emit(token.id, range); },
                [&](const AlignedText& aligned, const std::vector<Span>& spans) {
                  for (const Span span : spans) {
                    const std::string_view word(aligned.text.data() + span.begin, span.end - span.begin);
                    const auto give = [&](TokenId id, std::uint32_t begin, std::uint32_t end) {
                      if (!tracked) return emit(id, Encoding::Range{});
                      emit(id, covered(aligned, span, begin, end));
                    };
                    if (!PieceCache::fits(word)) {
                      tokenize(word, tracked, w);
                      for (const Piece& piece : w.pieces) give(piece.id, piece.begin, piece.end);
                      continue;
                    }
                    auto& entry = cache.place(owner_, word);
                    if (!PieceCache::holds(entry, owner_, word)) {
                      tokenize(word, true, w);
                      PieceCache::remember(entry, owner_, word, w.pieces);
                      for (const Piece& piece : w.pieces) give(piece.id, piece.begin, piece.end);
                      continue;
                    }
                    for (int i = 0; i < entry.count; ++i) give(entry.ids[i], entry.begins[i], entry.ends[i]);
                  }
                });
    if (w.cut.text.text.capacity() > (4u << 20)) w = Work{};   // one huge text must not hold its memory for ever
  }

  // What bytes [begin, end) of a word come from. A piece that stands for nothing may lie at the word's end.
  static Encoding::Range covered(const AlignedText& text, Span word, std::uint32_t begin, std::uint32_t end) {
    if (begin == end && begin > 0) return {text.map[word.begin + begin - 1].end, text.map[word.begin + begin - 1].end};
    const Encoding::Range first = text.map[word.begin + begin];
    return {first.begin, end > begin ? text.map[word.begin + end - 1].end : first.begin};
  }

  // The pieces of a word, in bytes of it (if tracked), into w.pieces.
  void tokenize(std::string_view word, bool tracked, Work& w) const {
    if (!cutter_.unfinished()) return tokenize_finished(word, w);
    cutter_.finish(word, tracked, w.rest);
    const AlignedText& text = w.rest.text;
    w.parts.clear();
    for (const Span span : w.rest.spans) {
      tokenize_finished(std::string_view(text.text).substr(span.begin, span.end - span.begin), w);
      for (Piece piece : w.pieces) {
        if (tracked) {
          const Encoding::Range range = covered(text, span, piece.begin, piece.end);
          piece.begin = range.begin;
          piece.end = range.end;
        }
        w.parts.push_back(piece);
      }
    }
    w.pieces.swap(w.parts);
  }

  void tokenize_finished(std::string_view word, Work& w) const {
    w.pieces.clear();
    if (!cutter_.spell_bytes()) return model_->tokenize(word, w.pieces);
    w.spelled = spelled(word);
    model_->tokenize(w.spelled, w.pieces);
    w.places.clear();
    std::uint32_t at = 0;
    for (const char c : w.spelled) {
      if ((static_cast<unsigned char>(c) & 0xC0) == 0x80) w.places.push_back(at);
      else w.places.push_back(at++);
    }
    // places[i]: for a first byte the byte it spells, for a second byte the one after.
    for (Piece& piece : w.pieces) {
      piece.begin = piece.begin < w.places.size() ? w.places[piece.begin] : at;
      piece.end = piece.end < w.places.size() ? w.places[piece.end] : at;
    }
  }

  TokenModelPtr model_;
  TextCutter cutter_;
  DecoderSpec decoder_;
  std::int64_t vocab_size_;
  PostProcessorPtr post_;
  std::optional<Truncation> truncation_;
  std::optional<Padding> padding_;
  std::string parts_;                    // tokenizer.json up to the model
  std::uint32_t owner_ = next_owner();   // tells the tokenizers of a process apart in the cache
};

}  // namespace

TokenizerPtr make_pipeline(TokenModelPtr model, const Json& root, const std::string& name) {
  return std::make_shared<Pipeline>(std::move(model), root, name);
}

TokenizerPtr make_pipeline(TokenModelPtr model, std::string_view parts, const std::string& name) {
  const Json root = parse_json(parts, name);
  if (!root.is_object()) fail("{}: expected a JSON object, found {}", name, root.type_name());
  return make_pipeline(std::move(model), root, name);
}

}  // namespace rhetor
