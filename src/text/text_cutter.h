// The part of a pipeline before its model: added tokens, normaliser, pre-tokenisers. Internal to the room.
// Thread-safety: immutable; each thread has its own CutWork.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "text/added_tokens.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"

namespace rhetor {

// Working memory of one thread, kept to spare allocations.
struct CutWork {
  AlignedText text;
  std::vector<Span> spans, spare;
  std::vector<AddedTokens::Part> outer, inner;
};

class TextCutter {
 public:
  // `root` is a tokenizer.json, with or without "model".
  TextCutter(const Json& root, const std::string& name);
  const AddedTokens& added() const { return added_; }
  bool spell_bytes() const { return pre_.spell_bytes; }
  bool byte_level() const { return pre_.byte_level; }
  // Whether words still have to go through finish(...).
  bool unfinished() const { return pre_.to_words < pre_.steps.size(); }
  // Applies the rest of the pre-tokenisers to a word, which becomes work.text and work.spans. REQUIRES: another work than the one of cut.
  void finish(std::string_view word, bool tracked, CutWork& work) const {
    work.text.tracked = tracked;
    work.text.assign(word, 0);
    work.spans.assign(1, Span{0, static_cast<std::uint32_t>(word.size())});
    for (std::size_t i = pre_.to_words; i < pre_.steps.size(); ++i) pre_.steps[i]->apply(work.text, work.spans, work.spare);
  }

  // Calls added(token, range) for added tokens and words(aligned text, spans) for the stretches between, in order.
  // REQUIRES: valid UTF-8, less than 2^31 bytes.
  template <class Added, class Words>
  void cut(std::string_view text, bool specials, bool tracked, CutWork& work, Added&& added, Words&& words) const {
    work.text.tracked = tracked || pre_.needs_tracking;
    work.outer.clear();
    added_.find(text, false, specials, work.outer);
    for (const auto& part : work.outer) {
      if (part.token) {
        added(*part.token, Encoding::Range{static_cast<std::uint32_t>(part.begin), static_cast<std::uint32_t>(part.end)});
        continue;
      }
      work.text.assign(text.substr(part.begin, part.end - part.begin), static_cast<std::uint32_t>(part.begin));
      if (normalizer_) normalizer_->apply(work.text);
      cut_normalized(specials, work, added, words);
    }
  }

 private:
  template <class Added, class Words>
  void cut_normalized(bool specials, CutWork& work, Added&& added, Words&& words) const {
    const auto pre_tokenize = [&](std::uint32_t begin, std::uint32_t end) {
      work.spans.assign(1, Span{begin, end});
      for (std::size_t i = 0; i < pre_.to_words; ++i) pre_.steps[i]->apply(work.text, work.spans, work.spare);
      words(work.text, work.spans);
    };
    if (!added_.any(true, specials)) {
      if (!work.text.text.empty()) pre_tokenize(0, static_cast<std::uint32_t>(work.text.text.size()));
      return;
    }
    work.inner.clear();
    added_.find(work.text.text, true, specials, work.inner);
    if (work.inner.size() == 1 && !work.inner[0].token) return pre_tokenize(0, static_cast<std::uint32_t>(work.text.text.size()));
    AlignedText whole;   // pre-tokenisers rewrite the work's text: each part starts from a copy
    whole.tracked = work.text.tracked;
    whole.text.swap(work.text.text);
    whole.map.swap(work.text.map);
    whole.first = work.text.first;
    whole.first_length = work.text.first_length;
    whole.origin = work.text.origin;
    for (const auto& part : work.inner) {
      if (part.token) {
        added(*part.token, Encoding::Range{whole.at(part.begin).begin, whole.at(part.end - 1).end});
        continue;
      }
      work.text.text.assign(whole.text, part.begin, part.end - part.begin);
      work.text.first = whole.at(part.begin);
      work.text.first_length = code_point(whole.text, part.begin).length;
      if (whole.tracked)
        work.text.map.assign(whole.map.begin() + static_cast<std::ptrdiff_t>(part.begin), whole.map.begin() + static_cast<std::ptrdiff_t>(part.end));
      pre_tokenize(0, static_cast<std::uint32_t>(part.end - part.begin));
    }
  }

  NormalizerPtr normalizer_;
  PreTokenizers pre_;
  AddedTokens added_;
};

// What a member of `root` is, null if it is absent.
const Json& member_or_null(const Json& root, const char* key);

}  // namespace rhetor
