// cuBLASLt problems as text, and their trials in the tuner's worker.
#pragma once

#include <string>

#include "cuda/cublas.h"

namespace rhetor::gpu {

// "lt 130201 1 128 768 ...": the library's version and every field that decides the result. Equal problems have equal texts.
std::string problem_text(const LtProblem& problem, std::size_t version);
// Fails for what problem_text() does not write.
LtProblem parse_problem(const std::string& text);

}  // namespace rhetor::gpu
