// Pre-tokenisers: a normalised text is cut into the words that the model gets. Internal to the room.
// Thread-safety: immutable.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "text/aligned_text.h"
#include "text/json_reader.h"
#include "text/pattern.h"

namespace rhetor {

// What becomes of the delimiter: "a-b" cut at "-" is [a b], [a - b], [a- b], [a -b]; contiguous is isolated with runs of delimiters in one.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  // Cuts each of `spans` (in order, no overlap), which may rewrite the text. Empty words are left out. `spare` is working memory.
  virtual void apply(AlignedText& text, std::vector<Span>& spans, std::vector<Span>& spare) const = 0;
};
using PreTokenizerPtr = std::unique_ptr<const PreTokenizer>;

struct PreTokenizers {
  std::vector<PreTokenizerPtr> steps;  // a Sequence, flat
  // After this many steps a text is in words, and what becomes of a word then depends on it alone: it can be remembered.
  std::size_t to_words = 0;
  bool spell_bytes = false;            // then each word is spelled in GPT-2's byte alphabet
  bool needs_tracking = false;         // a later step asks where in the original its words start
  bool byte_level = false;             // some step is ByteLevel
};
// tokenizer.json's "pre_tokenizer"; null gives no steps: the text is one word.
PreTokenizers make_pre_tokenizers(const Json& json, const std::string& where);

SplitBehavior split_behavior(const JsonPart& part, const char* otherwise);
std::shared_ptr<const Pattern> pattern_of(const JsonPart& part);   // "pattern": {"String": ...} or {"Regex": ...}

// Turns matches and what lies between them into words.
class WordCollector {
 public:
  WordCollector(SplitBehavior behavior, std::vector<Span>& out) : behavior_(behavior), out_(out) {}
  void add(std::uint32_t begin, std::uint32_t end, bool is_match) {
    switch (behavior_) {
      case SplitBehavior::removed:
        if (!is_match) emit(begin, end);
        break;
      case SplitBehavior::isolated: emit(begin, end); break;
      default: merge(begin, end, is_match);
    }
  }
  void finish() {  // after each span
    if (held_) emit(held_begin_, held_end_);
    held_ = previous_ = false;
  }

 private:
  void emit(std::uint32_t begin, std::uint32_t end) {
    if (begin < end) out_.push_back({begin, end});
  }
  void merge(std::uint32_t begin, std::uint32_t end, bool is_match);
  SplitBehavior behavior_;
  std::vector<Span>& out_;
  bool held_ = false, previous_ = false;   // a word that may still grow; whether the part before was a match
  std::uint32_t held_begin_ = 0, held_end_ = 0;
};

// Pre-tokenisers that look at single characters; null if `part` is none of them.
PreTokenizerPtr make_character_splitter(const JsonPart& part);
// Metaspace, ByteLevel's prefix blank, and the spelling of bytes: those that rewrite the text.
PreTokenizerPtr make_metaspace(const JsonPart& part, bool& asks_origin);
PreTokenizerPtr make_prefix_blank();
PreTokenizerPtr make_byte_speller();

}  // namespace rhetor
