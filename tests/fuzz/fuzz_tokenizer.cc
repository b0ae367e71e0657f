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
  const rhetor::Encoding ranged = tokenizer->encode_ranges(text);
  require(ranged.ids == ids && ranged.ranges.size() == ids.size());
  for (const auto range : ranged.ranges) require(range.begin <= range.end && range.end <= text.size());
  for (const auto id : ids) require(id >= 0 && id < tokenizer->vocab_size());
  const std::string decoded = tokenizer->decode(ids);
  rhetor::StreamDecoder stream(tokenizer);
  std::string streamed;
  for (const auto id : ids) {
    require(!tokenizer->is_special(id) || tokenizer->kind() != "byte_bpe");
    const std::string piece = stream.push(id);
    require(rhetor::utf8_valid_prefix(piece) == piece.size());
    streamed += piece;
  }
  require(streamed + stream.finish() == rhetor::utf8_cleaned(decoded));
  const std::string_view pair = "a pair";
  const rhetor::Encoding framed = tokenizer->encode_template(text, &pair, true);
  require(framed.segments.size() == framed.ids.size() && framed.added.size() == framed.ids.size());
  if (tokenizer->kind() != "byte_bpe") return;
  require(decoded == text);
  require(tokenizer->decode(tokenizer->encode(text, true), true) == text);
}

// A composition may refuse a text (an expression that would take for ever), with one sentence.
void try_promises(const rhetor::TokenizerPtr& tokenizer, const std::string& text) {
  try {
    check_promises(tokenizer, text);
  } catch (const rhetor::Error& error) {
    require(error.kind() != rhetor::ErrorKind::internal && tokenizer->kind() != "byte_bpe");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  // Training is the slow half; what looks like JSON is no more telling as a text than others.
  if (!input.starts_with('{')) {
    int documents = 0;
    const auto trained = rhetor::train_byte_bpe(
        [&](std::string& document) {
          document = input;
          return documents++ < 2;
        },
        {.vocab_size = 300, .specials = {"<|endoftext|>", "<|end|>"}});
    check_promises(trained, input);
    check_promises(rhetor::tokenizer_from_json(trained->to_json()), input);
  }
  try {
    const auto tokenizer = rhetor::tokenizer_from_json(input);
    for (const char* text : {"the boat \xFF\xE6\xB5\xB7", "\u00c9t\u00e9 e\u0301 <s>12 [MASK]\u3000\n don't", ""}) try_promises(tokenizer, text);
    const auto again = rhetor::tokenizer_from_json(tokenizer->to_json());
    require(again->encode("The bo\u00e4ts") == tokenizer->encode("The bo\u00e4ts"));
  } catch (const rhetor::Error& error) {
    require(error.kind() == rhetor::ErrorKind::invalid || error.kind() == rhetor::ErrorKind::resource);
  }
  return 0;
}
