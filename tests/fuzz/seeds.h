// What a fuzz target and its driver agree on.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

// Small valid (and nearly valid) inputs, made in code, from which the driver mutates. With libFuzzer they are not used: give it a corpus.
std::vector<std::string> fuzz_seeds();

inline void require(bool ok) {
  if (!ok) std::abort();
}
