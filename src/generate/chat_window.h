// What of a conversation or prompt the model gets to see: conversations outgrow the context, so the oldest turns are left out.
// Thread-safety: immutable after construction; the tokenizer is shared.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "generate/generator.h"

namespace rhetor {

class ChatWindow {
 public:
  explicit ChatWindow(const LanguageModel& model);

  struct Fit {
    std::vector<TokenId> tokens;   // rendered, open for the answer
    std::size_t dropped = 0;       // messages left out
  };
  // The newest turns that leave room for `answer` tokens (at most half the context is kept free). Leading system messages and the
  // last message always stay; fails with Error{resource} if these alone leave no place for an answer.
  Fit fit(const std::vector<ChatMessage>& messages, std::int64_t answer) const;
  // `sampling` with what ends an answer of this template but is no token of its own ("\nUser:"); the engine knows the tokens.
  Sampling conversing(Sampling sampling) const;
  // A plain prompt; fails with Error{resource} if it leaves no place for an answer. Text that cannot fit is refused without being
  // tokenised, so the cost is bounded by the context, not by the text.
  std::vector<TokenId> encode(std::string_view text, bool specials = false) const;

 private:
  std::int64_t tokens_at_least(std::size_t bytes) const;

  std::string render(const std::vector<ChatMessage>& messages, bool open_answer) const;

  TokenizerPtr tokenizer_;
  ChatTemplatePtr template_;
  std::vector<std::string> specials_;
  std::int64_t context_ = 0;
  std::int64_t longest_ = 1;   // bytes of the longest token
};

}  // namespace rhetor
