// One answer in the making: its tokens, their text as far as it is decided, and what the next choice depends on.
#pragma once

#include "generate/generator.h"
#include "generate/penalties.h"
#include "generate/stop_filter.h"

namespace rhetor {

class Answer {
 public:
  Answer(const TokenizerPtr& tokenizer, const Sampling& sampling, std::span<const TokenId> prompt)
      : penalties(sampling, prompt), tokenizer_(tokenizer), decoder_(tokenizer), filter_(sampling.stop) {
    result.prompt_tokens = static_cast<std::int64_t>(prompt.size());
  }
  Answer(Answer&&) = default;
  Answer& operator=(Answer&&) = default;
  // A copy that goes its own way, as the beams of a search do. A decoder cannot be copied: the new one reads the tokens again.
  Answer fork() const {
    Answer out(*this, StreamDecoder(tokenizer_));
    for (const TokenId id : result.tokens) out.decoder_.push(id);
    return out;
  }
  // Appends a token; returns the text that is now safe to show, which result.text has too.
  std::string take(TokenId id) {
    result.tokens.push_back(id);
    penalties.add(id);
    return show(filter_.push(decoder_.push(id)));
  }
  // The answer has ended: the text that was held back.
  std::string rest() {
    std::string out = filter_.push(decoder_.finish());
    return show(out + filter_.finish());
  }
  bool stopped() const { return filter_.stopped(); }   // by a stop string

  Generation result;
  Penalties penalties;

 private:
  Answer(const Answer& other, StreamDecoder decoder)
      : result(other.result),
        penalties(other.penalties),
        tokenizer_(other.tokenizer_),
        decoder_(std::move(decoder)),
        filter_(other.filter_) {}
  std::string show(std::string text) {
    result.text += text;
    return text;
  }
  TokenizerPtr tokenizer_;
  StreamDecoder decoder_;
  StopFilter filter_;
};

}  // namespace rhetor
