// The generation options that generate and chat share.
#pragma once

#include <string>
#include <vector>

#include "cli/args.h"
#include "generate/generator.h"

namespace rhetor {

// Lives until the command line is parsed: the options write into it.
class SamplingArgs {
 public:
  explicit SamplingArgs(Sampling defaults = {}) : sampling_(std::move(defaults)) {}
  void add_to(Args& args);
  // Beam search, several answers, log-probabilities: what a conversation has no use for.
  void add_answers_to(Args& args);
  // After parsing: checked, as validate() does.
  Sampling get() const;

 private:
  Sampling sampling_;
  std::int64_t seed_ = 0, top_logprobs_ = -1;
  std::vector<std::string> biases_;
};

}  // namespace rhetor
