// The seeds of the targets that read text files and tokenizer.json.
#include "seeds.h"
#include "text/tokenizer.h"

std::vector<std::string> fuzz_seeds() {
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
