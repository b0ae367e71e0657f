#include "text/decoder.h"

#include <algorithm>

#include "text/pattern.h"
#include "text/pre_tokenizer.h"
#include "text/unicode.h"

namespace rhetor {
namespace {

// The end of a chain.
class Collect final : public DecodeStage {
 public:
  explicit Collect(std::string& out) : out_(out) {}
  void token(std::string text) override { out_ += text; }
  void part(std::string_view text) override { out_ += text; }
  void finish() override {}

 private:
  std::string& out_;
};

// Without a decoder tokens are words.
class JoinByBlanks final : public DecodeStage {
 public:
  void token(std::string text) override {
    if (!first_) text.insert(0, 1, ' ');
    first_ = false;
    next->token(std::move(text));
  }

 private:
  bool first_ = true;
};

class Metaspace final : public DecodeStage {
 public:
  Metaspace(std::string replacement, bool prepended) : replacement_(std::move(replacement)), prepended_(prepended) {}
  void token(std::string text) override {
    const std::string_view to = first_ && prepended_ ? "" : " ";
    first_ = false;
    for (std::size_t at = text.find(replacement_); at != std::string::npos; at = text.find(replacement_, at + to.size()))
      text.replace(at, replacement_.size(), to);
    next->token(std::move(text));
  }

 private:
  std::string replacement_;
  bool prepended_, first_ = true;
};

// A token is known to be the last one when the end comes.
class BpeSuffix final : public DecodeStage {
 public:
  explicit BpeSuffix(std::string suffix) : suffix_(std::move(suffix)) {}
  void token(std::string text) override {
    if (held_) release(" ");
    token_ = std::move(text);
    held_ = true;
  }
  void finish() override {
    if (parts_) token(std::move(joined_));
    if (held_) release("");
    next->finish();
  }

 private:
  void release(std::string_view with) { next->token(suffix_.empty() ? token_ : Pattern::literal(suffix_)->replaced(token_, with, false)); }
  std::string suffix_, token_;
  bool held_ = false;
};

class Replace final : public DecodeStage {
 public:
  Replace(std::shared_ptr<const Pattern> pattern, std::string content, std::string literal)
      : pattern_(std::move(pattern)), content_(std::move(content)), literal_(std::move(literal)) {}
  void token(std::string text) override { next->token(pattern_->replaced(text, content_, literal_.empty())); }
  void part(std::string_view text) override {
    joined_ += text;
    parts_ = true;
    if (literal_.empty()) return;   // an expression may match any length: wait for the whole
    std::string out;
    std::size_t at = 0;
    for (std::size_t found; (found = joined_.find(literal_, at)) != std::string::npos; at = found + literal_.size()) {
      out.append(joined_, at, found - at);
      out += content_;
    }
    // What may be the beginning of the literal stays.
    std::size_t keep = std::min(literal_.size() - 1, joined_.size() - at);
    while (keep > 0 && !literal_.starts_with(std::string_view(joined_).substr(joined_.size() - keep))) --keep;
    out.append(joined_, at, joined_.size() - keep - at);
    joined_.erase(0, joined_.size() - keep);
    if (!out.empty()) next->part(out);
  }
  void finish() override {
    if (parts_ && literal_.empty()) token(std::move(joined_));
    else if (!joined_.empty()) next->part(joined_);
    next->finish();
  }

 private:
  std::shared_ptr<const Pattern> pattern_;
  std::string content_, literal_;
};

// Takes up to `start` and `stop` copies of a character from the ends of each token.
class Strip final : public DecodeStage {
 public:
  Strip(std::string content, std::int64_t start, std::int64_t stop) : content_(std::move(content)), start_(start), stop_(stop), left_(start) {}
  void token(std::string text) override {
    std::string_view rest = text;
    for (std::int64_t i = 0; i < start_ && rest.starts_with(content_); ++i) rest.remove_prefix(content_.size());
    for (std::int64_t i = 0; i < stop_ && rest.ends_with(content_); ++i) rest.remove_suffix(content_.size());
    next->token(std::string(rest));
  }
  void part(std::string_view text) override {
    for (; left_ > 0 && !text.empty(); --left_) {
      if (!text.starts_with(content_)) left_ = 1;
      else text.remove_prefix(content_.size());
    }
    joined_ += text;
    std::size_t keep = 0;   // copies at the end that may be the last ones
    for (std::int64_t i = 0; i < stop_ && std::string_view(joined_).substr(0, joined_.size() - keep).ends_with(content_); ++i) keep += content_.size();
    if (keep < joined_.size()) next->part(std::string_view(joined_).substr(0, joined_.size() - keep));
    joined_.erase(0, joined_.size() - keep);
  }
  void finish() override { next->finish(); }

 private:
  std::string content_;
  std::int64_t start_, stop_, left_;
};

void append(const Json& json, const std::string& where, DecoderSpec& out) {
  if (json.is_null()) return;
  const JsonPart part(json, where);
  const std::string type = part.type();
  if (type == "Sequence") {
    for (const Json& step : part.list("decoders")) append(step, where, out);
  } else if (type == "ByteLevel") {
    out.bytes_from_alphabet = true;
    out.stages.push_back(make_byte_level_stage);
  } else if (type == "ByteFallback") {
    out.bytes_from_names = true;
    out.stages.push_back(make_byte_fallback_stage);
  } else if (type == "Fuse") {
    out.stages.push_back(make_fuse_stage);
  } else if (type == "WordPiece") {
    out.stages.push_back([prefix = part.text("prefix", "##"), cleanup = part.flag("cleanup", true)] { return make_wordpiece_stage(prefix, cleanup); });
  } else if (type == "CTC") {
    out.stages.push_back([pad = part.text("pad_token", "<pad>"), word = part.text("word_delimiter_token", "|"), cleanup = part.flag("cleanup", true)] {
      return make_ctc_stage(pad, word, cleanup);
    });
  } else if (type == "Metaspace") {
    const bool prepended = part.text("prepend_scheme", "always") != "never" && part.flag("add_prefix_space", true);
    out.stages.push_back([prepended, to = part.given("replacement") ? part.character("replacement") : "\xE2\x96\x81"] {
      return std::make_unique<Metaspace>(to, prepended);
    });
  } else if (type == "BPEDecoder") {
    out.stages.push_back([suffix = part.text("suffix", "</w>")] { return std::make_unique<BpeSuffix>(suffix); });
  } else if (type == "Replace") {
    const Json& pattern = part.need("pattern");
    const bool literal = pattern.is_object() && pattern.contains("String") && pattern["String"].is_string();
    out.stages.push_back([pattern = pattern_of(part), content = part.text("content"), text = literal ? pattern["String"].get<std::string>() : ""] {
      return std::make_unique<Replace>(pattern, content, text);
    });
  } else if (type == "Strip") {
    out.stages.push_back([content = part.character("content"), start = part.integer("start", 0, 1 << 20), stop = part.integer("stop", 0, 1 << 20)] {
      return std::make_unique<Strip>(content, start, stop);
    });
  } else {
    fail("{} is not a known decoder; known are ByteLevel, WordPiece, Metaspace, BPEDecoder, ByteFallback, Fuse, Strip, Replace, CTC and Sequence",
         part.where());
  }
}

}  // namespace

DecoderSpec make_decoder(const Json& json, const std::string& where) {
  DecoderSpec out;
  append(json, where, out);
  if (out.stages.size() > 64) fail("{} has {} stages, the limit is 64", where, out.stages.size());
  if (json.is_null()) out.stages.push_back([] { return std::make_unique<JoinByBlanks>(); });
  return out;
}

DecodeChain::DecodeChain(const DecoderSpec& spec) {
  for (const auto& make : spec.stages) stages_.push_back(make());
  stages_.push_back(std::make_unique<Collect>(out_));
  for (std::size_t i = 0; i + 1 < stages_.size(); ++i) stages_[i]->next = stages_[i + 1].get();
}

DecodeChain::~DecodeChain() = default;

std::string DecodeChain::take() {
  std::string out;
  out.swap(out_);
  return out;
}

}  // namespace rhetor
