// What the measurements of whole models share (bench_model.cc).
#pragma once

#include <functional>
#include <string>

#include "measure/bench.h"
#include "models/model.h"
#include "runtime/executable.h"

namespace rhetor {

int bench_threads(const BenchOptions& options);
std::string describe_bench(const BenchOptions& options, const std::string& rest);
// A folder's model, or a preset with random weights.
ModelPtr open_or_invent(const BenchOptions& options);
CompileOptions bench_compile_options(const BenchOptions& options, const ModelConfig& config);
// Token ids are random words of the vocabulary, other integers zero, lengths full.
void fill_inputs(Session& session, std::int64_t vocab, std::int64_t seq);

}  // namespace rhetor
