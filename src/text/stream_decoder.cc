#include "text/tokenizer.h"
#include "text/utf8.h"

namespace rhetor {
namespace {

// Byte-level: the text of a token is its bytes.
class ByteStream final : public TokenStream {
 public:
  explicit ByteStream(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  std::string push(TokenId id) override {
    if (tokenizer_.is_special(id)) return {};
    pending_ += tokenizer_.token_bytes(id);
    const std::size_t whole = utf8_complete(pending_);
    std::string out = utf8_cleaned(std::string_view(pending_).substr(0, whole));
    pending_.erase(0, whole);
    return out;
  }
  std::string finish() override { return utf8_cleaned(pending_); }

 private:
  const Tokenizer& tokenizer_;
  std::string pending_;
};

}  // namespace

std::unique_ptr<TokenStream> Tokenizer::stream() const { return std::make_unique<ByteStream>(*this); }

std::string StreamDecoder::finish() {
  std::string out = stream_->finish();
  stream_ = tokenizer_->stream();
  return out;
}

}  // namespace rhetor
