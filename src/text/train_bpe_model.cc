// Training of BPE over characters, and of WordPiece, which the `tokenizers` package trains the same way: merges by frequency, with "##" on
// characters inside a word. (The likelihood criterion of the original WordPiece was never published in full.) Both give the vocabulary of
// that package wherever it is deterministic.
#include <algorithm>

#include "base/error.h"
#include "text/train_common.h"
#include "text/train_pairs.h"
#include "text/utf8_walk.h"

namespace rhetor {
namespace {

struct Trained {
  std::vector<std::string> vocab;
  std::vector<std::pair<std::string, std::string>> merges;
};

// Characters outside the alphabet are skipped; their neighbours then follow each other, as in `tokenizers`.
std::vector<PairTrainer::Word> spelled(const std::vector<WordCount>& words, const std::string& prefix, VocabularyBuilder& vocabulary) {
  std::vector<PairTrainer::Word> out;
  out.reserve(words.size());
  for (const std::uint32_t index : sorted_by_text(words)) {
    const std::string_view word = words[index].word;
    PairTrainer::Word entry{{}, words[index].count};
    for (std::size_t at = 0; at < word.size();) {
      const std::size_t length = character_length(word, at);
      const std::string_view character = word.substr(at, length);
      TokenId id = vocabulary.find(character);
      if (id >= 0 && at > 0 && !prefix.empty()) id = vocabulary.add(prefix + std::string(character));
      if (id >= 0) entry.ids.push_back(id);
      at += length;
    }
    if (entry.count > 0 && entry.ids.size() > 1) out.push_back(std::move(entry));
  }
  return out;
}

Trained train_merges(const std::vector<WordCount>& words, const ModelTrainOptions& options, const std::string& prefix) {
  Trained out;
  VocabularyBuilder vocabulary = start_vocabulary(options);
  for (const auto& character : training_alphabet(words, options)) vocabulary.add(character);
  auto spelling = spelled(words, prefix, vocabulary);
  PairTrainer trainer(std::move(spelling), [&](TokenId left, TokenId right) {
    return vocabulary.add(vocabulary[left] + vocabulary[right].substr(prefix.size()));  // the right part is inside a word
  });
  const auto first = static_cast<double>(vocabulary.size()), target = static_cast<double>(options.vocab_size);
  for (int i = 0; static_cast<double>(vocabulary.size()) < target && trainer.step(options.min_count); ++i) {
    out.merges.emplace_back(vocabulary[trainer.left()], vocabulary[trainer.right()]);
    if (options.progress && i % 64 == 0) options.progress((static_cast<double>(vocabulary.size()) - first) / (target - first));
  }
  if (options.progress) options.progress(1.0);
  out.vocab = vocabulary.take();
  return out;
}

}  // namespace

TokenModelPtr train_bpe(const std::vector<WordCount>& words, const ModelTrainOptions& options) {
  Trained trained = train_merges(words, options, options.prefix);
  return make_bpe({.vocab = std::move(trained.vocab),
                   .merges = std::move(trained.merges),
                   .unknown = options.unknown,
                   .continuing_prefix = options.prefix,
                   .end_of_word_suffix = {},
                   .fuse_unknown = options.byte_fallback,
                   .byte_fallback = options.byte_fallback});
}

TokenModelPtr train_wordpiece(const std::vector<WordCount>& words, const ModelTrainOptions& options) {
  if (options.byte_fallback) fail("WordPiece has no byte fallback; train BPE or Unigram for it");
  ModelTrainOptions with_defaults = options;
  if (with_defaults.unknown.empty()) with_defaults.unknown = "[UNK]";
  const std::string prefix = options.prefix.empty() ? "##" : options.prefix;
  Trained trained = train_merges(words, with_defaults, prefix);
  return make_wordpiece({.vocab = std::move(trained.vocab), .unknown = with_defaults.unknown, .prefix = prefix});
}

}  // namespace rhetor
