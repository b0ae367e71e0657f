// Decoders: tokens back into text, one at a time. A chain of stages; the last one collects. Internal to the room.
// Thread-safety: a DecoderSpec is immutable; a chain belongs to one stream.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/json_reader.h"

namespace rhetor {

// A stage gets tokens, or, once a stage before has joined them, parts of the one token that they make. It passes on what it can say now:
// what a text decodes to does not depend on how it was cut into calls.
class DecodeStage {
 public:
  virtual ~DecodeStage() = default;
  virtual void token(std::string text) = 0;
  // The default waits for the whole.
  virtual void part(std::string_view text) {
    joined_ += text;
    parts_ = true;
  }
  virtual void finish() {
    if (parts_) token(std::move(joined_));
    next->finish();
  }
  DecodeStage* next = nullptr;

 protected:
  std::string joined_;
  bool parts_ = false;
};
using DecodeStagePtr = std::unique_ptr<DecodeStage>;

struct DecoderSpec {
  std::vector<std::function<DecodeStagePtr()>> stages;   // none: tokens are joined by blanks
  bool bytes_from_names = false;    // "<0x41>" stands for a byte
  bool bytes_from_alphabet = false; // tokens are spelled in GPT-2's byte alphabet
};
// tokenizer.json's "decoder".
DecoderSpec make_decoder(const Json& json, const std::string& where);

// A chain at work.
class DecodeChain {
 public:
  explicit DecodeChain(const DecoderSpec& spec);
  ~DecodeChain();
  void push(std::string token) { stages_.front()->token(std::move(token)); }
  void finish() { stages_.front()->finish(); }
  std::string take();   // the text since the last call

 private:
  std::vector<DecodeStagePtr> stages_;
  std::string out_;
};

// "<0x41>" -> 0x41, anything else -> -1.
int byte_of_name(std::string_view token);

// Stages of their own file: text/decoder_stages.cc.
DecodeStagePtr make_byte_level_stage();
DecodeStagePtr make_byte_fallback_stage();
DecodeStagePtr make_fuse_stage();
DecodeStagePtr make_wordpiece_stage(const std::string& prefix, bool cleanup);
DecodeStagePtr make_ctc_stage(const std::string& pad, const std::string& delimiter, bool cleanup);

}  // namespace rhetor
