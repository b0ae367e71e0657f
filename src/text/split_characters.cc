// Pre-tokenisers that decide by single characters.
#include "text/pre_tokenizer.h"

namespace rhetor {
namespace {

using namespace property;

// Cuts at every character for which matches(c) holds.
template <class Matches>
class CharacterSplit final : public PreTokenizer {
 public:
  CharacterSplit(SplitBehavior behavior, Matches matches) : behavior_(behavior), matches_(std::move(matches)) {}
  void apply(AlignedText& t, std::vector<Span>& spans, std::vector<Span>& spare) const override {
    spare.clear();
    WordCollector words(behavior_, spare);
    for (const Span span : spans) {
      std::uint32_t begin = span.begin;
      for (std::uint32_t i = span.begin; i < span.end;) {
        const CodePoint c = code_point(t.text, i);
        if (matches_(c.value)) {
          if (begin < i) words.add(begin, i, false);
          words.add(i, i + c.length, true);
          begin = i + c.length;
        }
        i += c.length;
      }
      if (begin < span.end) words.add(begin, span.end, false);
      words.finish();
    }
    spans.swap(spare);
  }

 private:
  SplitBehavior behavior_;
  Matches matches_;
};
template <class Matches>
PreTokenizerPtr split_at(SplitBehavior behavior, Matches matches) {
  return std::make_unique<CharacterSplit<Matches>>(behavior, std::move(matches));
}

// Cuts into runs of characters of one class; class 0 is left out, and characters of class kAlone are words of their own.
constexpr int kAlone = -1;
template <class Classify>
class RunSplit final : public PreTokenizer {
 public:
  explicit RunSplit(Classify classify) : classify_(classify) {}
  void apply(AlignedText& t, std::vector<Span>& spans, std::vector<Span>& spare) const override {
    spare.clear();
    for (const Span span : spans) {
      int last = 0;
      std::uint32_t begin = span.begin;
      for (std::uint32_t i = span.begin; i < span.end;) {
        const CodePoint c = code_point(t.text, i);
        const int now = classify_(c.value);
        if (now != last || now == kAlone) {
          if (last != 0) spare.push_back({begin, i});
          begin = i;
          last = now;
        }
        i += c.length;
      }
      if (last != 0) spare.push_back({begin, span.end});
    }
    spans.swap(spare);
  }

 private:
  Classify classify_;
};
template <class Classify>
PreTokenizerPtr split_runs(Classify classify) { return std::make_unique<RunSplit<Classify>>(classify); }

class FixedLength final : public PreTokenizer {
 public:
  explicit FixedLength(std::int64_t characters) : characters_(characters) {}
  void apply(AlignedText& t, std::vector<Span>& spans, std::vector<Span>& spare) const override {
    spare.clear();
    for (const Span span : spans) {
      std::uint32_t begin = span.begin;
      while (begin < span.end) {
        std::uint32_t end = begin;
        for (std::int64_t n = 0; n < characters_ && end < span.end; ++n) end += code_point(t.text, end).length;
        spare.push_back({begin, end});
        begin = end;
      }
    }
    spans.swap(spare);
  }

 private:
  std::int64_t characters_;
};

// A word is a run of one script. Blanks belong to the word before them; those at the start belong to none.
class UnicodeScripts final : public PreTokenizer {
 public:
  void apply(AlignedText& t, std::vector<Span>& spans, std::vector<Span>& spare) const override {
    spare.clear();
    for (const Span span : spans) {
      int last = -1;
      std::uint32_t begin = span.end;
      for (std::uint32_t i = span.begin; i < span.end;) {
        const CodePoint c = code_point(t.text, i);
        const int script = script_number(c.value);
        if (script != 0 && script != last) {
          if (begin < i) spare.push_back({begin, i});
          begin = i;
          last = script;
        }
        i += c.length;
      }
      if (begin < span.end) spare.push_back({begin, span.end});
    }
    spans.swap(spare);
  }
};

}  // namespace

PreTokenizerPtr make_character_splitter(const JsonPart& part) {
  const std::string type = part.type();
  if (type == "BertPreTokenizer")
    return split_runs([](char32_t c) {
      const std::uint32_t p = properties(c);
      return (p & space) != 0 ? 0 : (p & punctuation) != 0 ? kAlone : 1;
    });
  if (type == "Whitespace")
    return split_runs([](char32_t c) {
      const std::uint32_t p = properties(c);
      return (p & word) != 0 ? 1 : (p & space) != 0 ? 0 : 2;
    });
  if (type == "WhitespaceSplit") return split_runs([](char32_t c) { return has(c, space) ? 0 : 1; });
  if (type == "Punctuation") return split_at(split_behavior(part, "Isolated"), [](char32_t c) { return has(c, punctuation); });
  if (type == "Digits")
    return split_at(part.flag("individual_digits", false) ? SplitBehavior::isolated : SplitBehavior::contiguous,
                    [](char32_t c) { return has(c, numeric); });
  if (type == "CharDelimiterSplit" || type == "Delimiter") {
    const char32_t delimiter = code_point(part.character("delimiter"), 0).value;
    return split_at(SplitBehavior::removed, [delimiter](char32_t c) { return c == delimiter; });
  }
  if (type == "FixedLength") return std::make_unique<FixedLength>(part.given("length") ? part.integer("length", 1, 1 << 20) : 5);
  if (type == "UnicodeScripts") return std::make_unique<UnicodeScripts>();
  return nullptr;
}

}  // namespace rhetor
