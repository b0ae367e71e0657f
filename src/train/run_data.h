// What a run trains on: its tokenizer, its sources of tokens, and the batches as graph inputs.
#pragma once

#include <memory>
#include <vector>

#include "data/batches.h"
#include "data/blend.h"
#include "data/span_corruption.h"
#include "train/trainer.h"

namespace rhetor {

// One source: a text held in memory or a token folder that is mapped.
struct RunSource {
  std::string name;
  TokenView train, validation;
  double weight = 0;
  std::shared_ptr<const TokenSet> text;   // what the views borrow from; null: a folder
};

// What a model is pre-trained to do: the next token, masked tokens, spans taken out of the text.
enum class Objective { next, masked, spans };
Objective objective_of(const ModelConfig& config);

// The tokens of a run. Immutable once made.
struct RunData {
  TokenizerPtr tokenizer;
  ChatTemplatePtr chat_template;  // what conversations are rendered with; null: the default of the tokenizer
  std::vector<RunSource> sources;
  std::uint64_t hash = 0;  // of tokenizer and tokens: a resumed run must meet the same text
  std::int64_t train_tokens() const;
};
// `known` is the tokenizer this run has already made (may be null). Fails naming the file that cannot be read, or, where the text
// is too short, both lengths. `note` gets a line for people about each stage.
RunData load_run_data(const Recipe& recipe, TokenizerPtr known, const std::function<void(const std::string&)>& note);

// Fails, naming both lengths, if the training part is shorter than one sequence and its last target.
void require_enough_text(const RunData& data, std::int64_t seq);

// The rows of a run: row `number` is a pure function of (data, recipe, seq, number). Immutable, thread-safe; borrows `data`.
class RunRows {
 public:
  enum class Part { train, validation };
  // `seed` decides order, masks and pairs. Fails naming a key of [data] that does not go with the model.
  RunRows(const RunData& data, const Recipe& recipe, Objective objective, std::int64_t seq, Part part, std::uint64_t seed);
  // `parts` micro-batches, rows / parts rows each.
  NamedTensors batch(std::int64_t rows, std::uint64_t index, std::int64_t parts = 1) const;
  // Without padding (data.packing = "unpadded"): batches of `texts` texts in that many tokens.
  bool unpadded() const { return unpadded_; }
  void set_tokens(std::int64_t tokens) { flat_tokens_ = tokens; }
  // Mean length of the texts of a bert, from some of them.
  double mean_length() const;
  bool empty() const { return sources_.empty(); }   // no source is as long as one sequence
  std::int64_t tokens() const;

 private:
  struct Source {
    TokenView tokens;
    std::uint64_t seed;
    std::unique_ptr<Packing> packing;   // null: a stream
    std::unique_ptr<MlmRows> masked;    // bert
    std::unique_ptr<SpanRows> spans;    // t5
  };
  Objective objective_;
  std::int64_t seq_, predictions_, flat_tokens_ = 0;
  bool unpadded_ = false;
  TokenId pad_;
  std::vector<Source> sources_;
  std::unique_ptr<Blend> blend_;
};

// Batches of a run, in order, prepared ahead by recipe.workers threads. Batch i is a pure function of (data, recipe, i): neither
// the number of threads nor where a run begins changes it.
class BatchStream {
 public:
  // `rows` sequences of `seq` tokens from the training part, beginning with batch `first`. `data` must outlive the stream.
  BatchStream(const RunData& data, const Recipe& recipe, Objective objective, std::int64_t rows, std::int64_t seq,
              std::uint64_t first);
  NamedTensors next();
  double waited_seconds() const;

 private:
  std::unique_ptr<RunRows> rows_;
  std::unique_ptr<Prefetcher<NamedTensors>> batches_;
};

// Tokens of a micro-batch of `texts` texts without padding: a little fewer than they have on average, so that batches are full. 0
// if the recipe pads.
std::int64_t unpadded_tokens(const RunData& data, const Recipe& recipe, Objective objective, std::int64_t texts,
                             std::int64_t seq);

// Fixed batches of the validation part, at most `count`; none if it is shorter than one sequence.
std::vector<NamedTensors> validation_batches(const RunData& data, const Recipe& recipe, Objective objective, std::int64_t rows,
                                             std::int64_t seq, std::int64_t count);

}  // namespace rhetor
