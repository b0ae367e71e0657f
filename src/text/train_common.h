// What the trainers of token models share. Internal to the room.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/token_model.h"

namespace rhetor {

// A vocabulary under construction: texts by id.
class VocabularyBuilder {
 public:
  // The id of a text, entered if it is new.
  TokenId add(std::string_view text);
  TokenId find(std::string_view text) const;  // -1
  std::size_t size() const { return texts_.size(); }
  const std::string& operator[](TokenId id) const { return texts_[static_cast<std::size_t>(id)]; }
  std::vector<std::string> take() { return std::move(texts_); }

 private:
  std::vector<std::string> texts_;
  std::unordered_map<std::string, TokenId> ids_;
};

// Special tokens in their order, the unknown token if it is not among them, and the 256 byte tokens "<0x00>"... with byte fallback.
// Fails if the options make no sense.
VocabularyBuilder start_vocabulary(const ModelTrainOptions& options);

// The characters of the words: the most frequent `max_alphabet` of them and all of `options.alphabet`, sorted by code point. Of characters
// that are equally frequent the smaller ones stay. Bytes that are no UTF-8 are no characters.
std::vector<std::string> training_alphabet(const std::vector<WordCount>& words, const ModelTrainOptions& options);

// The indices of the words, sorted by text: training must not depend on the order in which they were counted.
std::vector<std::uint32_t> sorted_by_text(const std::vector<WordCount>& words);

}  // namespace rhetor
