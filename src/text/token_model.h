// The model of a tokenizer: one word of normalised, pre-tokenised text -> tokens. Everything around it (normalising, cutting into words,
// templates, decoding) is text/pipeline.h.
// Thread-safety: a TokenModel is immutable; tokenize may run concurrently.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/tokenizer.h"

namespace rhetor {

// A token and the bytes [begin, end) of the word that it covers.
struct Piece {
  TokenId id;
  std::uint32_t begin, end;
};

class TokenModel {
 public:
  virtual ~TokenModel() = default;
  virtual std::string_view kind() const = 0;                        // "WordPiece", "Unigram", "BPE", "WordLevel", as in tokenizer.json
  virtual std::int64_t size() const = 0;                            // ids are [0, size)
  virtual void tokenize(std::string_view word, std::vector<Piece>& out) const = 0;   // appends; covers the word
  virtual std::string_view token(TokenId id) const = 0;             // its text in the model's own alphabet; "" if out of range
  virtual TokenId id(std::string_view token) const = 0;             // -1 if there is none
  virtual std::string to_json() const = 0;                          // the "model" object of tokenizer.json
};
using TokenModelPtr = std::shared_ptr<const TokenModel>;

// Greedy longest match first (Schuster & Nakajima 2012; Devlin et al. 2019).
struct WordPieceOptions {
  std::vector<std::string> vocab;                                   // by id
  std::string unknown = "[UNK]", prefix = "##";
  std::int64_t max_word_characters = 100;                           // longer words are `unknown`
};
TokenModelPtr make_wordpiece(WordPieceOptions options);

// The most probable segmentation (Kudo 2018), by Viterbi.
struct UnigramOptions {
  std::vector<std::pair<std::string, double>> pieces;               // text, log probability; by id
  TokenId unknown = -1;                                             // -1: a word that cannot be covered fails
  bool byte_fallback = false;                                       // unknown characters become "<0xNN>" pieces
};
TokenModelPtr make_unigram(UnigramOptions options);

// Merges by rank (Sennrich et al. 2016) over characters.
struct BpeOptions {
  std::vector<std::string> vocab;                                   // by id
  std::vector<std::pair<std::string, std::string>> merges;          // best first
  std::string unknown, continuing_prefix, end_of_word_suffix;       // "" = none
  bool fuse_unknown = false, byte_fallback = false, ignore_merges = false;
};
TokenModelPtr make_bpe(BpeOptions options);

// Whole words.
struct WordLevelOptions {
  std::vector<std::string> vocab;                                   // by id
  std::string unknown = "<unk>";                                    // not in the vocabulary: a word that is unknown fails
};
TokenModelPtr make_word_level(WordLevelOptions options);

// Training from the counts of normalised, pre-tokenised words. Deterministic, whatever their order and the number of threads: ties by the
// smaller pair of ids (BPE, WordPiece) or the smaller text. `progress` gets the share done.
struct WordCount {
  std::string word;
  std::int64_t count;
};
struct ModelTrainOptions {
  std::int64_t vocab_size = 8192;                                   // with the special tokens, which get the first ids
  std::vector<std::string> specials;
  std::int64_t min_count = 2, max_alphabet = 1000;                  // least count of a merged pair or a whole word; characters beyond the most frequent are left out
  std::vector<std::string> alphabet;                                // characters always in the vocabulary (the 256 bytes' letters)
  std::string unknown, prefix;                                      // WordPiece: "[UNK]", "##"; Unigram, WordLevel: "<unk>"
  bool byte_fallback = false;
  std::function<void(double fraction)> progress;
};
TokenModelPtr train_wordpiece(const std::vector<WordCount>& words, const ModelTrainOptions& options);
TokenModelPtr train_unigram(const std::vector<WordCount>& words, const ModelTrainOptions& options);
TokenModelPtr train_bpe(const std::vector<WordCount>& words, const ModelTrainOptions& options);
TokenModelPtr train_word_level(const std::vector<WordCount>& words, const ModelTrainOptions& options);

// Files other programs write. Untrusted: each fails with one sentence that names the file. They give a whole tokenizer (pipeline included).
TokenizerPtr load_sentencepiece(const std::filesystem::path& model);                              // SentencePiece .model (protobuf)
TokenizerPtr load_vocab_txt(const std::filesystem::path& vocab, bool lower_case = true);          // BERT: one token a line
TokenizerPtr load_vocab_merges(const std::filesystem::path& vocab_json, const std::filesystem::path& merges_txt);   // GPT-2

}  // namespace rhetor
