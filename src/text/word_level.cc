// WordLevel: a word is a token, or unknown. Training takes the most frequent words.
#include <fmt/core.h>

#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "text/token_model.h"
#include "text/train_common.h"
#include "text/utf8.h"
#include "text/vocabulary_json.h"

namespace rhetor {
namespace {

class WordLevel final : public TokenModel {
 public:
  explicit WordLevel(WordLevelOptions options) : options_(std::move(options)) {
    ids_.reserve(options_.vocab.size());
    for (std::size_t i = 0; i < options_.vocab.size(); ++i) {
      if (!options_.vocab[i].empty()) ids_.emplace(options_.vocab[i], static_cast<TokenId>(i));
    }
    unknown_ = id(options_.unknown);
  }

  std::string_view kind() const override { return "WordLevel"; }
  std::int64_t size() const override { return static_cast<std::int64_t>(options_.vocab.size()); }
  void tokenize(std::string_view word, std::vector<Piece>& out) const override {
    TokenId found = id(word);
    if (found < 0) found = unknown_;
    if (found < 0)
      fail("the word '{}' is not in the WordLevel vocabulary, which has no unknown token '{}' either",
           utf8_cleaned(word.substr(0, utf8_cut(word, 40))), options_.unknown);
    out.push_back({found, 0, static_cast<std::uint32_t>(word.size())});
  }
  std::string_view token(TokenId id) const override {
    return id < 0 || id >= size() ? std::string_view() : std::string_view(options_.vocab[static_cast<std::size_t>(id)]);
  }
  TokenId id(std::string_view token) const override {
    const auto found = ids_.find(token);
    return found == ids_.end() ? -1 : found->second;
  }
  std::string to_json() const override {
    return fmt::format("{{\n    \"type\": \"WordLevel\",\n    \"vocab\": {},\n    \"unk_token\": {}\n  }}", json_vocabulary(options_.vocab),
                       json_string(options_.unknown));
  }

 private:
  WordLevelOptions options_;
  std::unordered_map<std::string_view, TokenId> ids_;  // views of options_.vocab
  TokenId unknown_ = -1;
};

}  // namespace

TokenModelPtr make_word_level(WordLevelOptions options) { return std::make_shared<WordLevel>(std::move(options)); }

// Of words that are equally frequent the smaller ones come first.
TokenModelPtr train_word_level(const std::vector<WordCount>& words, const ModelTrainOptions& options) {
  VocabularyBuilder vocabulary = start_vocabulary(options);
  std::vector<const WordCount*> order;
  for (const WordCount& word : words) {
    if (word.count >= options.min_count && !word.word.empty() && utf8_valid_prefix(word.word) == word.word.size()) order.push_back(&word);
  }
  std::sort(order.begin(), order.end(),
            [](const WordCount* a, const WordCount* b) { return a->count != b->count ? a->count > b->count : a->word < b->word; });
  for (const WordCount* word : order) {
    if (static_cast<std::int64_t>(vocabulary.size()) >= options.vocab_size) break;
    vocabulary.add(word->word);
  }
  if (options.progress) options.progress(1.0);
  return make_word_level({.vocab = vocabulary.take(), .unknown = options.unknown});
}

}  // namespace rhetor
