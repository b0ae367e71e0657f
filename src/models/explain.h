// `rhetor explain MODEL`: builds and compiles a model (or opens a plan) and tells what the compiler did.
#pragma once

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>

#include "runtime/explain.h"

namespace rhetor {

struct ExplainOptions {
  std::int64_t batch = 1, seq = 16;            // gpt2, llama: a step of `seq` tokens on a cache; bert: the encoder
  std::string dtype = "f32";                   // f32, bf16, f16, fp8, int8: precision of contractions; a folder of int8 weights is int8
  std::set<std::string, std::less<>> off;      // passes to skip
  std::string dump_dir;                        // write the graph after each pass into this folder
};

// `model` is a model folder, a plan file (all its executables) or the name of a preset, which gets random weights.
// Fails if seq is longer than the model's context, or bf16, f16 or fp8 is asked of a folder of int8 weights.
Explanation explain_model(const std::filesystem::path& model, const ExplainOptions& options = {});

}  // namespace rhetor
