// Tokenizers: text <-> token ids. Training, applying, streaming, saving as Hugging Face-style tokenizer.json.
// Thread-safety: a Tokenizer is immutable; encode and decode may run concurrently. Decoder belongs to one stream.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rhetor {

using TokenId = std::int32_t;

// Tokens with where they come from.
struct Encoding {
  struct Range { std::uint32_t begin = 0, end = 0; };   // bytes of the original text; {0,0} for what the template added
  std::vector<TokenId> ids;
  std::vector<std::int32_t> segments;                   // 0 or 1: the text of a pair it belongs to (BERT's token types)
  std::vector<Range> ranges;
  std::vector<std::uint8_t> added;                      // 1: put there by the template ([CLS], [SEP]), not part of a text
};

struct Truncation;      // text/batch_encoding.h
struct Padding;
struct WindowOptions;

// Ids to text piece by piece; what push and finish return, put together, is decode(ids). Special tokens are left out.
class TokenStream {
 public:
  virtual ~TokenStream() = default;
  virtual std::string push(TokenId id) = 0;
  virtual std::string finish() = 0;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::string_view kind() const = 0;                      // "byte_bpe", "BPE", "WordPiece", "Unigram", "WordLevel"
  virtual std::int64_t vocab_size() const = 0;
  // Any bytes are legal text. Special tokens in it are recognised only if `specials`. With "byte_bpe" decode(encode(x)) == x for any x; the
  // others normalise, and read bytes that are no UTF-8 as U+FFFD.
  virtual std::vector<TokenId> encode(std::string_view text, bool specials = false) const = 0;
  // The same ids as encode(text, specials) with the ranges they cover; no template. A range holds whole characters.
  virtual Encoding encode_ranges(std::string_view text, bool specials = false) const;
  // One text or a pair as the model wants it, e.g. "[CLS] a [SEP] b [SEP]"; `pair` null = one text. Without a template of its own: the texts one
  // after the other, between "<|cls|>" and "<|sep|>" if the vocabulary has them. A limit that tokenizer.json sets ("truncation") holds here.
  Encoding encode_template(std::string_view text, const std::string_view* pair = nullptr, bool specials = false) const;
  // The same with a limit of the caller's. What it cuts off follows in windows, each with the template: the first of the list is what
  // encode_template gives. For batches see text/batch_encoding.h.
  virtual std::vector<Encoding> encode_windows(std::string_view text, const std::string_view* pair, const WindowOptions& options) const;
  // What tokenizer.json asks for; null: nothing.
  virtual const Truncation* truncation() const { return nullptr; }
  virtual const Padding* padding() const { return nullptr; }
  // What one token adds to a text it stands in the middle of ("" for ids out of range). Special tokens give their text.
  virtual std::string token_bytes(TokenId id) const = 0;
  virtual bool is_special(TokenId id) const = 0;
  // Id of a special token by its text ("<|endoftext|>"), or -1.
  virtual TokenId special(std::string_view text) const = 0;
  virtual std::vector<std::string> specials() const = 0;
  virtual std::string to_json() const = 0;

  // Special tokens are left out unless `keep_specials`.
  virtual std::string decode(const std::vector<TokenId>& ids, bool keep_specials = false) const;
  // A decoder at work, which must not outlive the tokenizer; see StreamDecoder.
  virtual std::unique_ptr<TokenStream> stream() const;
  void save(const std::filesystem::path& path) const;             // atomic
};
using TokenizerPtr = std::shared_ptr<const Tokenizer>;

// Untrusted input: fails with one sentence on anything malformed.
TokenizerPtr tokenizer_from_json(std::string_view json, const std::string& name = "tokenizer.json");
// A model folder, tokenizer.json, vocab.txt (BERT), vocab.json beside merges.txt (GPT-2) or a SentencePiece .model.
TokenizerPtr load_tokenizer(const std::filesystem::path& path);

// The ids of many texts, on all cores (base/thread_pool.h). Element i belongs to texts[i].
std::vector<std::vector<TokenId>> encode_batch(const Tokenizer& tokenizer, std::span<const std::string_view> texts, bool specials = false);

// Turns ids into text piece by piece without ever splitting a UTF-8 character; invalid bytes become U+FFFD.
class StreamDecoder {
 public:
  explicit StreamDecoder(TokenizerPtr tokenizer) : tokenizer_(std::move(tokenizer)), stream_(tokenizer_->stream()) {}
  std::string push(TokenId id) { return stream_->push(id); }   // the text that is now complete ("" while a character is partial)
  std::string finish();                                        // what is left; then a new text may begin
 private:
  TokenizerPtr tokenizer_;
  std::unique_ptr<TokenStream> stream_;
};

struct BpeTrainOptions {
  std::int64_t vocab_size = 1024;                       // with 256 bytes and the special tokens
  std::vector<std::string> specials = {"<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>",
                                       "<|pad|>", "<|mask|>", "<|cls|>", "<|sep|>"};
  std::function<void(double fraction)> progress;        // optional
};
// Byte-level BPE with GPT-2 pre-tokenisation (Sennrich et al. 2016; Radford et al. 2019). Deterministic: ties by smaller pair.
// Stops early (with fewer tokens) when no pair occurs twice. `documents` yields the next text, false at the end.
TokenizerPtr train_byte_bpe(const std::function<bool(std::string& document)>& documents, const BpeTrainOptions& options);

}  // namespace rhetor
