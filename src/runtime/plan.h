// Plan files: a compiled model in one file. Versioned, checksummed, and refused with a reason on a machine it does not fit.
//
// Layout: magic "RHETPLAN", u32 version, u32 reserved, u64 header bytes, header JSON, padding to 64, sections, u64 XXH3 of all before it.
// Holds the optimised graphs as text, chosen kernels by name, the folded weights, and free-form named blobs (config, tokenizer). Loading
// maps the file, verifies the checksum, re-parses the graphs and prepares the named kernels; no passes run, so start-up is fast.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "runtime/executable.h"

namespace rhetor {

struct Plan {
  std::map<std::string, ExecutablePtr> executables;   // "cached.b1.s1", ...
  std::map<std::string, std::string> blobs;            // "config.json", "tokenizer.json", "name"
  std::uint64_t weight_bytes = 0;
};

// Weights used by several executables are stored once. Fails unless every executable was compiled with CompileOptions.keep_weights.
void save_plan(const std::filesystem::path& path, const Plan& plan);
// Fails naming what is wrong: not a plan, truncated, checksum, version, needs avx512 and this machine has avx2, ...
Plan load_plan(const std::filesystem::path& path, const CompileOptions& options = {});

}  // namespace rhetor
