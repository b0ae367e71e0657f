// The KV caches of a batch engine and the executables that fill them: one row for the prompt that is being read, one a slot.
// A row's contents do not depend on what other rows hold. Used by one thread at a time.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "generate/generator.h"

namespace rhetor {

class CacheRows {
 public:
  // `wanted` slots, rounded up to a batch size the model has (or down to its largest).
  CacheRows(const LanguageModel& model, std::int64_t wanted);
  std::int64_t slots() const { return slots_; }
  // Compiles everything that may be needed.
  void prepare();

  // Reads at most one chunk of the prompt; true once all of it is read. The prompt read last is remembered: it costs nothing
  // again.
  bool prefill(const std::vector<TokenId>& prompt);
  // [V] after the last token of the prompt that was read.
  std::span<const float> prompt_logits() const { return prompt_logits_; }
  // The prompt's row into a slot. With a single slot they are the same row, of which decoding leaves the prompt's part alone.
  void place(std::int64_t slot);
  // The first `positions` of a slot's row into another's.
  void copy(std::int64_t from, std::int64_t to, std::int64_t positions);

  struct Feed {
    TokenId token = 0;
    std::int64_t position = 0;   // where it goes; rows nobody uses may hold {0, 0}
  };
  // One decode step of the first feeds.size() slots: [V] logits for each.
  std::vector<std::span<const float>> decode(std::span<const Feed> feeds);

 private:
  Session& prefill_session(std::int64_t bucket);
  Session& decode_session(std::int64_t batch);
  std::int64_t bucket_for(std::int64_t left) const;

  const LanguageModel& model_;
  std::int64_t slots_ = 1;
  // With more than one slot prompts are read in a cache of their own (batch 1, so the result is that of a sequence alone).
  std::shared_ptr<StateStore> row_states_ = std::make_shared<StateStore>(), slot_states_;
  std::map<std::int64_t, std::unique_ptr<Session>> prefill_;   // by bucket
  std::map<std::int64_t, std::unique_ptr<Session>> decode_;    // by batch; their caches are the first rows of slot_states_
  std::vector<TokenId> prompt_;                                // in the prompt's row, as far as
  std::int64_t read_ = 0;                                      // ... here
  std::vector<float> prompt_logits_;
};

}  // namespace rhetor
