// Any bytes as a text file: plain, compressed or JSONL, told by the first byte. They are read or refused with an Error.
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/error.h"
#include "data/corpus.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const bool records = (data[0] & 1) != 0;
  static const std::string base = (std::filesystem::temp_directory_path() / ("rhetor_fuzz_" + std::to_string(::getpid()))).string();
  const std::string path = base + (records ? ".jsonl" : ".txt");
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) std::abort();
  std::fwrite(data + 1, 1, size - 1, file);
  std::fclose(file);
  const std::size_t limit = 64u << (data[0] >> 4);
  try {
    rhetor::Corpus corpus({path}, {.max_document_bytes = limit});
    std::string document;
    while (corpus.next(document)) {
      // A rendered conversation may be longer than its record by the turn marks; plain documents never exceed the limit.
      if (document.empty() || (!records && document.size() > limit)) std::abort();
    }
  } catch (const rhetor::Error& error) {
    if (error.kind() == rhetor::ErrorKind::internal) std::abort();
  }
  std::remove(path.c_str());
  return 0;
}
