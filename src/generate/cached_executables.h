// The executables of a cached language model: which exist, how they are named and built.
#pragma once

#include <string>
#include <vector>

#include "generate/generator.h"

namespace rhetor {

// "cached.b1.s16": the name of an executable in a plan file.
std::string cached_name(std::int64_t batch, std::int64_t seq);
// The buckets of `options` that make sense for a context: ascending, the last one no longer than the context.
std::vector<std::int64_t> prefill_buckets(const OpenOptions& options, std::int64_t context);
// The smallest bucket >= seq, or the largest there is.
std::int64_t choose_bucket(const std::vector<std::int64_t>& buckets, std::int64_t seq);
ExecutablePtr compile_cached(const Model& model, std::int64_t batch, std::int64_t seq, CompileOptions options);
// Fails unless the family generates text.
void require_language_model(const ModelConfig& config, const std::string& name);

}  // namespace rhetor
