#include "text/pre_tokenizer.h"

namespace rhetor {
namespace {

// GPT-2's words (Radford et al. 2019).
constexpr const char* kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

class PatternSplit final : public PreTokenizer {
 public:
  PatternSplit(std::shared_ptr<const Pattern> pattern, SplitBehavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}
  void apply(AlignedText& t, std::vector<Span>& spans, std::vector<Span>& spare) const override {
    spare.clear();
    WordCollector words(behavior_, spare);
    for (const Span span : spans) {
      const std::string_view word = std::string_view(t.text).substr(span.begin, span.end - span.begin);
      pattern_->cut(word, [&](std::size_t begin, std::size_t end, bool is_match) {
        words.add(span.begin + static_cast<std::uint32_t>(begin), span.begin + static_cast<std::uint32_t>(end), is_match != invert_);
      });
      words.finish();
    }
    spans.swap(spare);
  }

 private:
  std::shared_ptr<const Pattern> pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

void append(const Json& json, const std::string& where, PreTokenizers& out) {
  if (json.is_null()) return;
  const JsonPart part(json, where);
  const std::string type = part.type();
  if (type == "Sequence") {
    for (const Json& step : part.list("pretokenizers")) append(step, where, out);
    return;
  }
  if (type == "ByteLevel") {
    if (part.flag("add_prefix_space", true)) out.steps.push_back(make_prefix_blank());
    static const std::shared_ptr<const Pattern> gpt2 = Pattern::regex(kGpt2, "Rhetor");
    if (part.flag("use_regex", true)) out.steps.push_back(std::make_unique<PatternSplit>(gpt2, SplitBehavior::isolated, false));
    out.steps.push_back(make_byte_speller());
    out.spell_bytes = out.byte_level = true;
    return;
  }
  out.spell_bytes = false;   // only what comes last can wait for the words
  if (type == "Split") {
    out.steps.push_back(std::make_unique<PatternSplit>(pattern_of(part), split_behavior(part, nullptr), part.flag("invert", false)));
  } else if (type == "Metaspace") {
    bool asks_origin = false;
    auto step = make_metaspace(part, asks_origin);
    out.needs_tracking |= asks_origin && !out.steps.empty();
    out.steps.push_back(std::move(step));
  } else if (auto step = make_character_splitter(part)) {
    out.steps.push_back(std::move(step));
  } else {
    fail("{} is not a known pre-tokenizer; known are BertPreTokenizer, ByteLevel, Whitespace, WhitespaceSplit, Metaspace, Punctuation, Digits, "
         "CharDelimiterSplit, FixedLength, Split, UnicodeScripts and Sequence", part.where());
  }
}

// How many steps cut a plain sentence into words; all of them if none does. Steps see nothing but their span, so those that are left can be
// applied to each word alone (but for the one that asks where in the original it is).
std::size_t steps_to_words(const std::vector<PreTokenizerPtr>& steps) {
  AlignedText text;
  text.assign("the quick brown fox jumps over the lazy dog", 0);
  std::vector<Span> spans{{0, static_cast<std::uint32_t>(text.text.size())}}, spare;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    steps[i]->apply(text, spans, spare);
    if (spans.size() >= 9) return i + 1;
  }
  return steps.size();
}

}  // namespace

void WordCollector::merge(std::uint32_t begin, std::uint32_t end, bool is_match) {
  bool joins = false;   // with the word before
  switch (behavior_) {
    case SplitBehavior::contiguous: joins = is_match == previous_; break;
    case SplitBehavior::merged_with_previous: joins = is_match && !previous_; break;
    default: joins = !is_match && previous_;
  }
  if (held_ && joins) {
    held_end_ = end;
  } else {
    if (held_) emit(held_begin_, held_end_);
    held_ = true;
    held_begin_ = begin;
    held_end_ = end;
  }
  previous_ = is_match;
}

SplitBehavior split_behavior(const JsonPart& part, const char* otherwise) {
  const std::string name = otherwise ? part.text("behavior", otherwise) : part.text("behavior");
  if (name == "Removed") return SplitBehavior::removed;
  if (name == "Isolated") return SplitBehavior::isolated;
  if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
  if (name == "Contiguous") return SplitBehavior::contiguous;
  fail("{}: 'behavior' must be Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous, found {}", part.where(), shown(name));
}

PreTokenizers make_pre_tokenizers(const Json& json, const std::string& where) {
  PreTokenizers out;
  append(json, where, out);
  if (out.spell_bytes) out.steps.pop_back();   // done word by word, and remembered with the word
  out.to_words = out.needs_tracking ? out.steps.size() : steps_to_words(out.steps);
  return out;
}

}  // namespace rhetor
