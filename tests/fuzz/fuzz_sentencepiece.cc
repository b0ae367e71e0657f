// Any bytes as a SentencePiece .model: refused with an Error or a tokenizer that keeps its promises; and any bytes as text.
#include "base/error.h"
#include "seeds.h"
#include "text/sentencepiece_json.h"
#include "text/sentencepiece_test_model.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace {

void check_promises(const rhetor::TokenizerPtr& tokenizer, std::string_view text) {
  for (const bool specials : {false, true}) {
    const auto encoding = tokenizer->encode_ranges(text, specials);
    require(encoding.ids == tokenizer->encode(text, specials));
    for (std::size_t i = 0; i < encoding.ids.size(); ++i) {
      require(encoding.ids[i] >= 0 && encoding.ids[i] < tokenizer->vocab_size());
      require(encoding.ranges[i].begin <= encoding.ranges[i].end && encoding.ranges[i].end <= text.size());
    }
    rhetor::StreamDecoder stream(tokenizer);
    std::string streamed;
    for (const auto id : encoding.ids) streamed += stream.push(id);
    require(streamed + stream.finish() == tokenizer->decode(encoding.ids));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  static const auto unigram = rhetor::sentencepiece_from_bytes(rhetor::test_sentencepiece(1, true), "unigram");
  static const auto bpe = rhetor::sentencepiece_from_bytes(rhetor::test_sentencepiece(2, true), "bpe");
  check_promises(unigram, input);
  check_promises(bpe, input);
  try {
    const auto tokenizer = rhetor::sentencepiece_from_bytes(input, "input");
    check_promises(tokenizer, "  abc A\xFF \xE6\xB5\xB7\xE8\x88\xB9 <sep></s>");
    check_promises(tokenizer, input.substr(0, 200));
    (void)tokenizer->to_json();
  } catch (const rhetor::Error& error) {
    require(error.kind() == rhetor::ErrorKind::invalid);
  }
  return 0;
}

std::vector<std::string> fuzz_seeds() {
  std::vector<std::string> seeds;
  for (const int algorithm : {1, 2}) {
    for (const bool bytes : {false, true}) seeds.push_back(rhetor::test_sentencepiece(algorithm, bytes));
  }
  return seeds;
}
