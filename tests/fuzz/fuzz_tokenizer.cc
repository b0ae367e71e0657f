// Any bytes as tokenizer.json: it is refused with an Error or gives a tokenizer that keeps its promises; and any bytes as text.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "base/error.h"
#include "seeds.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace {


void check_promises(const rhetor::TokenizerPtr& tokenizer, const std::string& text) {
  const auto ids = tokenizer->encode(text);
  require(tokenizer->decode(ids) == text);
  require(tokenizer->decode(tokenizer->encode(text, true), true) == text);
  rhetor::StreamDecoder stream(tokenizer);
  std::string streamed;
  for (const auto id : ids) {
    require(!tokenizer->is_special(id));
    streamed += stream.push(id);
    require(rhetor::utf8_valid_prefix(streamed) == streamed.size());
  }
  require(streamed + stream.finish() == rhetor::utf8_cleaned(text));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  int documents = 0;
  const auto trained = rhetor::train_byte_bpe(
      [&](std::string& document) {
        document = input;
        return documents++ < 2;
      },
      {.vocab_size = 300, .specials = {"<|endoftext|>", "<|end|>"}});
  check_promises(trained, input);
  check_promises(rhetor::tokenizer_from_json(trained->to_json()), input);
  try {
    check_promises(rhetor::tokenizer_from_json(input), "the boat \xFF\xE6\xB5\xB7");
  } catch (const rhetor::Error& error) {
    require(error.kind() == rhetor::ErrorKind::invalid);
  }
  return 0;
}
