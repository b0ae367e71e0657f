// What a run trains on: its tokenizer, its token streams, and the batches as graph inputs.
#pragma once

#include <memory>

#include "data/batches.h"
#include "train/trainer.h"

namespace rhetor {

// The text of a run as tokens. Immutable once made.
struct RunData {
  TokenizerPtr tokenizer;
  TokenSet tokens;
  std::uint64_t hash = 0;  // of tokenizer and tokens: a resumed run must meet the same text
};
// `known` is the tokenizer this run has already made (may be null). Fails naming the file that cannot be read, or, where the text
// is too short, both lengths. `note` gets a line for people about each stage.
RunData load_run_data(const Recipe& recipe, TokenizerPtr known, const std::function<void(const std::string&)>& note);

// Fails, naming both lengths, if the training part is shorter than one sequence and its last target.
void require_enough_text(const RunData& data, std::int64_t seq);

// Batches of a run, in order, prepared ahead by one thread. Batch i is a pure function of (data, recipe, i).
class BatchStream {
 public:
  // `rows` sequences of `seq` tokens from the training part, beginning with batch `first`. `data` must outlive the stream.
  BatchStream(const RunData& data, bool bert, std::int64_t rows, std::int64_t seq, std::uint64_t seed, std::uint64_t first);
  NamedTensors next();
  double waited_seconds() const;

 private:
  std::unique_ptr<Prefetcher<NamedTensors>> batches_;
};

// Fixed batches of the validation part, at most `count`; none if it is shorter than one sequence.
std::vector<NamedTensors> validation_batches(const RunData& data, bool bert, std::int64_t rows, std::int64_t seq,
                                             std::int64_t count);

}  // namespace rhetor
