// The stages that turn tokens into words or bytes into characters.
#include "text/byte_alphabet.h"
#include "text/decoder.h"
#include "text/utf8.h"

namespace rhetor {
namespace {

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  if (from.empty()) return;
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) text.replace(at, from.size(), to);
}

// Undoes the spaces that cutting at punctuation leaves, by BERT's list.
void clean_up(std::string& text) {
  static constexpr std::string_view rules[][2] = {{" .", "."},     {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},   {" n't", "n't"},
                                                  {" 'm", "'m"},   {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
  for (const auto& rule : rules) replace_all(text, rule[0], rule[1]);
}

class WordPiece final : public DecodeStage {
 public:
  WordPiece(std::string prefix, bool cleanup) : prefix_(std::move(prefix)), cleanup_(cleanup) {}
  void token(std::string text) override {
    if (!first_) {
      if (text.starts_with(prefix_)) text.erase(0, prefix_.size());
      else text.insert(0, 1, ' ');
    }
    first_ = false;
    if (cleanup_) clean_up(text);
    next->token(std::move(text));
  }

 private:
  std::string prefix_;
  bool cleanup_, first_ = true;
};

// Connectionist temporal classification: repeats are one, the pad separates them.
class Ctc final : public DecodeStage {
 public:
  Ctc(std::string pad, std::string delimiter, bool cleanup) : pad_(std::move(pad)), delimiter_(std::move(delimiter)), cleanup_(cleanup) {}
  void token(std::string text) override {
    if (any_ && text == last_) return;
    any_ = true;
    last_ = text;
    replace_all(text, pad_, "");
    if (cleanup_) {
      clean_up(text);
      replace_all(text, delimiter_, " ");
    }
    if (!text.empty()) next->token(std::move(text));
  }

 private:
  std::string pad_, delimiter_, last_;
  bool cleanup_, any_ = false;
};

// A run of byte tokens is text if it is UTF-8 as a whole, else every byte becomes U+FFFD. The run is known at its end only.
class ByteFallback final : public DecodeStage {
 public:
  void token(std::string text) override {
    if (const int byte = byte_of_name(text); byte >= 0) {
      bytes_ += static_cast<char>(byte);
      return;
    }
    flush();
    next->token(std::move(text));
  }
  void finish() override {
    if (parts_) token(std::move(joined_));
    flush();
    next->finish();
  }

 private:
  void flush() {
    if (bytes_.empty()) return;
    if (utf8_valid_prefix(bytes_) == bytes_.size()) {
      next->token(bytes_);
    } else {
      for (std::size_t i = 0; i < bytes_.size(); ++i) next->token("\xEF\xBF\xBD");
    }
    bytes_.clear();
  }
  std::string bytes_;
};

class Fuse final : public DecodeStage {
 public:
  void token(std::string text) override { next->part(text); }
  void part(std::string_view text) override { next->part(text); }
  void finish() override { next->finish(); }
};

// Joins the bytes of all tokens and passes on whole characters; a token that is not spelled in the alphabet stands for itself.
class ByteLevel final : public DecodeStage {
 public:
  void token(std::string text) override {
    std::string bytes;
    pending_ += unspelled(text, bytes) ? bytes : text;
    const std::size_t whole = utf8_complete(pending_);
    if (whole > 0) next->part(utf8_cleaned(std::string_view(pending_).substr(0, whole)));
    pending_.erase(0, whole);
  }
  void finish() override {
    if (parts_) token(std::move(joined_));
    if (!pending_.empty()) next->part(utf8_cleaned(pending_));
    next->finish();
  }

 private:
  std::string pending_;
};

}  // namespace

int byte_of_name(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

DecodeStagePtr make_byte_level_stage() { return std::make_unique<ByteLevel>(); }
DecodeStagePtr make_byte_fallback_stage() { return std::make_unique<ByteFallback>(); }
DecodeStagePtr make_fuse_stage() { return std::make_unique<Fuse>(); }
DecodeStagePtr make_wordpiece_stage(const std::string& prefix, bool cleanup) { return std::make_unique<WordPiece>(prefix, cleanup); }
DecodeStagePtr make_ctc_stage(const std::string& pad, const std::string& delimiter, bool cleanup) {
  return std::make_unique<Ctc>(pad, delimiter, cleanup);
}

}  // namespace rhetor
