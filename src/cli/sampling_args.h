// The generation options that generate, chat and quickstart share.
#pragma once

#include "cli/args.h"
#include "generate/generator.h"

namespace rhetor {

inline void add_sampling(Args& args, Sampling& sampling, std::int64_t& seed) {
  args.option("--temperature", sampling.temperature, "0 = always the likeliest token", 0.0, 100.0)
      .option("--top-k", sampling.top_k, "sample among the k likeliest tokens, 0 = all", 0, 1 << 20)
      .option("--top-p", sampling.top_p, "sample among the likeliest tokens that make up this probability", 0.0, 1.0)
      .option("--max-tokens", sampling.max_tokens, "longest answer", 1, 1 << 20)
      .option("--stop", sampling.stop, "end before this text (repeatable)")
      .option("--seed", seed, "same seed, same text", 0, std::int64_t{1} << 62);
}

}  // namespace rhetor
