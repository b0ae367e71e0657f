// With libFuzzer: `TARGET --seeds=FOLDER` writes the target's seeds there, one a file, and ends; tools/fuzz begins its corpus with them.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "seeds.h"

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  constexpr std::string_view option = "--seeds=";
  for (int i = 1; i < *argc; ++i) {
    const std::string_view word = (*argv)[i];
    if (!word.starts_with(option)) continue;
    int number = 0;
    for (const std::string& seed : fuzz_seeds()) {
      std::FILE* file = std::fopen((std::string(word.substr(option.size())) + "/seed-" + std::to_string(number++)).c_str(), "wb");
      require(file != nullptr && std::fwrite(seed.data(), 1, seed.size(), file) == seed.size());
      std::fclose(file);
    }
    std::exit(0);
  }
  return 0;
}
