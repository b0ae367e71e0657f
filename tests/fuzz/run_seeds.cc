// Runs a fuzz target without a fuzzer: what fuzzers have kept (tests/fuzz/corpus), its seeds and deterministic mutations of them, so that
// every test run exercises it.
// Usage: TARGET [--corpus FOLDER] or TARGET FILE... (these alone, to repeat a finding). A crash leaves the input in TARGET.finding.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/rng.h"
#include "seeds.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

std::string finding_file;

// Written before the target sees it: whatever ends the process, the last input is there. Removed at the end of a good run.
void run(const std::string& input) {
  if (std::FILE* file = std::fopen(finding_file.c_str(), "wb")) {
    std::fwrite(input.data(), 1, input.size(), file);
    std::fclose(file);
  }
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
}

// A number (in text or binary) put to where readers trip: limits of types, sizes that overflow when multiplied.
std::string awkward(rhetor::Rng& rng) {
  static const std::vector<std::string> known = {
      "0", "-1", "1e400", "4294967296", "9223372036854775807", "18446744073709551615", "null", "[]", "{}", "\"\"", "\\ud800",
      std::string(8, '\xff'), std::string(8, '\0'), std::string("\0\0\0\0\0\0\0\x80", 8), std::string(400, '['), "nan", "%", "\""};
  return known[rng.below(known.size())];
}

}  // namespace

int main(int argc, char** argv) {
  finding_file = std::string(argv[0]) + ".finding";
  const bool corpus = argc == 3 && std::string_view(argv[1]) == "--corpus";
  for (int i = 1; i < argc && !corpus; ++i) {
    const std::string input = rhetor::read_file(argv[i]);
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
  }
  if (argc > 1 && !corpus) return 0;
  int inputs = 0;
  if (corpus && std::filesystem::is_directory(argv[2])) {
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(argv[2])) files.push_back(entry.path());
    std::sort(files.begin(), files.end());
    for (const auto& file : files) run(rhetor::read_file(file)), ++inputs;
  }
  rhetor::Rng rng(2024);
  for (const std::string& seed : fuzz_seeds()) {
    run(seed);
    for (int i = 0; i < 120; ++i, ++inputs) {
      std::string changed = seed;
      for (std::uint64_t k = 0; k <= rng.below(4) && !changed.empty(); ++k) {
        const std::uint64_t at = rng.below(changed.size());
        switch (rng.below(6)) {
          case 0: changed[at] = static_cast<char>(rng.below(256)); break;
          case 1: changed.resize(at); break;
          case 2: changed.insert(at, changed.substr(rng.below(changed.size()), rng.below(16))); break;
          case 3: changed.replace(at, rng.below(4), awkward(rng)); break;
          case 4: changed[at] = static_cast<char>(changed[at] ^ (1 << rng.below(8))); break;
          default: changed.erase(at, 1 + rng.below(8)); break;
        }
      }
      run(changed);
    }
  }
  std::remove(finding_file.c_str());
  std::printf("%d inputs, no finding\n", inputs);
  return 0;
}
