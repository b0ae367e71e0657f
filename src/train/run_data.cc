#include "train/run_data.h"

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "data/prefetch.h"

namespace rhetor {
namespace {

// Fixed, so that validation losses of runs with different seeds compare.
constexpr std::uint64_t kValidationSeed = 20240229;

std::uint64_t hash_tokens(const std::vector<TokenId>& tokens, std::uint64_t seed) {
  return hash64(std::as_bytes(std::span(tokens)), seed);
}

NamedTensors as_inputs(LmBatch batch) { return {{"tokens", std::move(batch.inputs)}, {"targets", std::move(batch.targets)}}; }

NamedTensors as_inputs(MlmBatch batch) {
  return {{"tokens", std::move(batch.inputs)},
          {"segments", std::move(batch.segments)},
          {"lengths", std::move(batch.lengths)},
          {"targets", std::move(batch.targets)},
          {"next_sentence", std::move(batch.next_sentence)}};
}

}  // namespace

RunData load_run_data(const Recipe& recipe, TokenizerPtr known, const std::function<void(const std::string&)>& note) {
  CorpusOptions options;
  options.text_field = recipe.text_field;
  options.separator = recipe.separator;
  Corpus corpus({recipe.files.begin(), recipe.files.end()}, options);
  RunData data;
  if (!recipe.tokenizer.empty()) {
    data.tokenizer = load_tokenizer(recipe.tokenizer);
  } else if (known) {
    data.tokenizer = std::move(known);
  } else {
    BpeTrainOptions bpe;
    bpe.vocab_size = recipe.vocab;
    data.tokenizer = train_byte_bpe([&](std::string& document) { return corpus.next(document); }, bpe);
    corpus.rewind();
    note(fmt::format("tokenizer: {} tokens trained on the text", data.tokenizer->vocab_size()));
  }
  data.tokens = tokenize_corpus(corpus, *data.tokenizer, recipe.validation, recipe.seed);
  data.hash = hash_tokens(data.tokens.validation, hash_tokens(data.tokens.train, hash64(data.tokenizer->to_json())));
  note(fmt::format("text: {} bytes, {} training and {} validation tokens", data.tokens.source_bytes, data.tokens.train.size(),
                   data.tokens.validation.size()));
  return data;
}

void require_enough_text(const RunData& data, std::int64_t seq) {
  if (static_cast<std::int64_t>(data.tokens.train.size()) < seq + 1) {
    fail(
        "the training text has {} tokens, fewer than one sequence of {} (train.seq) and its last target; give more text or a "
        "shorter train.seq",
        data.tokens.train.size(), seq);
  }
}

BatchStream::BatchStream(const RunData& data, bool bert, std::int64_t rows, std::int64_t seq, std::uint64_t seed,
                         std::uint64_t first) {
  require_enough_text(data, seq);
  batches_ = std::make_unique<Prefetcher<NamedTensors>>(
      [&data, bert, rows, seq, seed](std::uint64_t i) {
        const TokenSet& tokens = data.tokens;
        return bert ? as_inputs(mlm_batch(tokens.train, tokens.train_documents, *data.tokenizer, rows, seq, seed, i))
                    : as_inputs(lm_batch(tokens.train, rows, seq, seed, i));
      },
      first);
}

NamedTensors BatchStream::next() { return batches_->next(); }
double BatchStream::waited_seconds() const { return batches_->waited_seconds(); }

std::vector<NamedTensors> validation_batches(const RunData& data, bool bert, std::int64_t rows, std::int64_t seq,
                                             std::int64_t count) {
  std::vector<NamedTensors> out;
  const auto& tokens = data.tokens.validation;
  const auto size = static_cast<std::int64_t>(tokens.size());
  if (size < seq + 1) return out;
  // Not more than the text holds: the same window twice tells nothing.
  count = std::min(count, std::max<std::int64_t>(1, size / (rows * seq)));
  for (std::int64_t i = 0; i < count; ++i) {
    const auto index = static_cast<std::uint64_t>(i);
    out.push_back(
        bert ? as_inputs(mlm_batch(tokens, data.tokens.validation_documents, *data.tokenizer, rows, seq, kValidationSeed, index))
             : as_inputs(lm_batch(tokens, rows, seq, kValidationSeed, index)));
  }
  return out;
}

}  // namespace rhetor
