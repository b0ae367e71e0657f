// Runs a fuzz target without a fuzzer: built-in seeds and deterministic mutations of them, so that every test run exercises it.
// Usage: TARGET [FILE...] (files instead of the seeds, to repeat a finding).
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/rng.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

void run(const std::string& input) { LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size()); }

std::vector<std::string> seeds() {
  int n = 0;
  const auto tokenizer = rhetor::train_byte_bpe([&](std::string& d) { d = "the boats of the harbour"; return n++ < 3; }, {.vocab_size = 280});
  return {
      "",
      "a",
      tokenizer->to_json(),
      "The harbour is quiet.\n<|endoftext|>\nIt's raining, we'll wait. \xE6\xB5\xB7\xE8\xBE\xB9 \xF0\x9F\x90\x9F\n",
      "1{\"text\": \"one\"}\n{\"text\": \"t\\u00e4o\", \"x\": [1, {\"y\": null}]}\n",
      "1{\"messages\": [{\"role\": \"user\", \"content\": \"hi <|end|>\"}, {\"role\": \"assistant\", \"content\": \"yes\"}]}\n",
      std::string("0\x1f\x8b\x08\0\0\0\0\0\0\x03\xcb\xc8\xe4\x02\0\x7a\x7a\x6f\xed\x03\0\0\0", 24),  // gzip of "hi\n"
      std::string("0\x28\xb5\x2f\xfd\x04\x58\x19\0\0hi\n", 13),                                       // zstd, without its checksum
      std::string("0\xfd" "7zXZ\0\0\x04\xe6\xd6\xb4\x46", 13),                                        // the head of an xz file
      "0" + std::string(3000, ' ') + std::string(3000, 'a') + "\n\n\n",
      "\xFF\xFE\x80<|end|><|endoftext|><|end",
  };
}

}  // namespace

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) run(rhetor::read_file(argv[i]));
  if (argc > 1) return 0;
  rhetor::Rng rng(2024);
  int inputs = 0;
  for (const std::string& seed : seeds()) {
    run(seed);
    for (int i = 0; i < 120; ++i, ++inputs) {
      std::string changed = seed;
      for (std::uint64_t k = 0; k <= rng.below(4) && !changed.empty(); ++k) {
        const std::uint64_t at = rng.below(changed.size());
        switch (rng.below(4)) {
          case 0: changed[at] = static_cast<char>(rng.below(256)); break;
          case 1: changed.resize(at); break;
          case 2: changed.insert(at, changed.substr(rng.below(changed.size()), rng.below(16))); break;
          default: changed.erase(at, 1 + rng.below(8)); break;
        }
      }
      run(changed);
    }
  }
  std::printf("%d inputs, no finding\n", inputs);
  return 0;
}
