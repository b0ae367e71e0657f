// A model folder compiled to a plan file, and a plan file as a language model.
#pragma once

#include <filesystem>
#include <vector>

#include "generate/generator.h"

namespace rhetor {

// Compiles the decode step for each batch size and the prefill buckets (batch 1) of `model` and stores them in `out`. `batches`
// are powers of two; 1 is always added.
void compile_to_plan(const std::filesystem::path& model, const std::filesystem::path& out, const OpenOptions& options = {},
                     const std::vector<std::int64_t>& batches = {1, 4});

// Fails if the plan is damaged, does not fit this machine, or is not one of a language model.
LanguageModelPtr open_plan_model(const std::filesystem::path& path, const OpenOptions& options = {});

}  // namespace rhetor
