// What a run trains on: its tokenizer, its sources of tokens, and the batches as graph inputs.
#pragma once

#include <memory>
#include <vector>

#include "data/batches.h"
#include "data/blend.h"
#include "train/trainer.h"

namespace rhetor {

// One source: a text held in memory or a token folder that is mapped.
struct RunSource {
  std::string name;
  TokenView train, validation;
  double weight = 0;
  std::shared_ptr<const TokenSet> text;   // what the views borrow from; null: a folder
};

// The tokens of a run. Immutable once made.
struct RunData {
  TokenizerPtr tokenizer;
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
  RunRows(const RunData& data, const Recipe& recipe, bool bert, std::int64_t seq, Part part, std::uint64_t seed);
  NamedTensors batch(std::int64_t rows, std::uint64_t index) const;
  bool empty() const { return sources_.empty(); }   // no source is as long as one sequence
  std::int64_t tokens() const;

 private:
  struct Source {
    TokenView tokens;
    std::uint64_t seed;
    std::unique_ptr<Packing> packing;   // null: a stream
    std::unique_ptr<MlmRows> masked;    // bert
  };
  bool bert_;
  std::int64_t seq_;
  TokenId pad_;
  std::vector<Source> sources_;
  std::unique_ptr<Blend> blend_;
};

// Batches of a run, in order, prepared ahead by recipe.workers threads. Batch i is a pure function of (data, recipe, i): neither the
// number of threads nor where a run begins changes it.
class BatchStream {
 public:
  // `rows` sequences of `seq` tokens from the training part, beginning with batch `first`. `data` must outlive the stream.
  BatchStream(const RunData& data, const Recipe& recipe, bool bert, std::int64_t rows, std::int64_t seq, std::uint64_t first);
  NamedTensors next();
  double waited_seconds() const;

 private:
  std::unique_ptr<RunRows> rows_;
  std::unique_ptr<Prefetcher<NamedTensors>> batches_;
};

// Fixed batches of the validation part, at most `count`; none if it is shorter than one sequence.
std::vector<NamedTensors> validation_batches(const RunData& data, const Recipe& recipe, bool bert, std::int64_t rows, std::int64_t seq,
                                             std::int64_t count);

}  // namespace rhetor
