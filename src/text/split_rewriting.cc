// Pre-tokenisers that change the text while they cut it.
#include "text/byte_alphabet.h"
#include "text/pre_tokenizer.h"

namespace rhetor {
namespace {

// SentencePiece's words: blanks become a visible character that starts a word (Kudo & Richardson 2018).
class Metaspace final : public PreTokenizer {
 public:
  enum class Prepend { first, always, never };
  Metaspace(std::string replacement, Prepend prepend, bool split) : replacement_(std::move(replacement)), prepend_(prepend), split_(split) {}
  void apply(AlignedText& t, std::vector<Span>& spans, std::vector<Span>& spare) const override {
    spare.clear();
    Rewriter out(t);
    for (const Span span : spans) {
      const std::string_view word = std::string_view(t.text).substr(span.begin, span.end - span.begin);
      std::uint32_t begin = out.size();
      const bool starts = word.starts_with(' ') || word.starts_with(replacement_);
      if (!starts && (prepend_ == Prepend::always || (prepend_ == Prepend::first && t.at(span.begin).begin == 0)))
        out.put(replacement_, t.at(span.begin));
      for (std::size_t i = 0; i < word.size();) {
        const std::size_t next = delimiter(word, i);
        out.copy(span.begin + i, span.begin + next);
        if (next == word.size()) break;
        if (split_ && begin < out.size()) {
          spare.push_back({begin, out.size()});
          begin = out.size();
        }
        if (word[next] == ' ') {
          out.put(replacement_, t.at(span.begin + next));
          i = next + 1;
        } else {
          i = next + replacement_.size();
          out.copy(span.begin + next, span.begin + i);
        }
      }
      if (begin < out.size()) spare.push_back({begin, out.size()});
    }
    out.done();
    spans.swap(spare);
  }

 private:
  std::size_t delimiter(std::string_view word, std::size_t from) const {
    for (; from < word.size(); ++from) {
      if (word[from] == ' ' || (word[from] == replacement_[0] && word.substr(from).starts_with(replacement_))) break;
    }
    return from;
  }
  std::string replacement_;
  Prepend prepend_;
  bool split_;
};

// Puts a blank before every word that has none, so that it is spelled like one inside a sentence.
class PrefixBlank final : public PreTokenizer {
 public:
  void apply(AlignedText& t, std::vector<Span>& spans, std::vector<Span>& spare) const override {
    bool needed = false;
    for (const Span span : spans) needed |= t.text[span.begin] != ' ';
    if (!needed) return;
    spare.clear();
    Rewriter out(t);
    for (const Span span : spans) {
      const std::uint32_t begin = out.size();
      if (t.text[span.begin] != ' ') out.put(U' ', t.at(span.begin));
      out.copy(span.begin, span.end);
      spare.push_back({begin, out.size()});
    }
    out.done();
    spans.swap(spare);
  }
};

class ByteSpeller final : public PreTokenizer {
 public:
  void apply(AlignedText& t, std::vector<Span>& spans, std::vector<Span>& spare) const override {
    spare.clear();
    Rewriter out(t);
    for (const Span span : spans) {
      const std::uint32_t begin = out.size();
      for (std::uint32_t i = span.begin; i < span.end; ++i) out.put(byte_alphabet().to_code[static_cast<unsigned char>(t.text[i])], t.at(i));
      spare.push_back({begin, out.size()});
    }
    out.done();
    spans.swap(spare);
  }
};

}  // namespace

PreTokenizerPtr make_metaspace(const JsonPart& part, bool& asks_origin) {
  const std::string scheme = part.text("prepend_scheme", "always");
  Metaspace::Prepend prepend = Metaspace::Prepend::always;
  if (scheme == "first") prepend = Metaspace::Prepend::first;
  else if (scheme == "never") prepend = Metaspace::Prepend::never;
  else if (scheme != "always") fail("{}: 'prepend_scheme' must be first, always or never, found {}", part.where(), shown(scheme));
  if (!part.flag("add_prefix_space", true)) prepend = Metaspace::Prepend::never;   // files from before there were schemes
  asks_origin = prepend == Metaspace::Prepend::first;
  const std::string replacement = part.given("replacement") ? part.character("replacement") : "\xE2\x96\x81";
  return std::make_unique<Metaspace>(replacement, prepend, part.flag("split", true));
}

PreTokenizerPtr make_prefix_blank() { return std::make_unique<PrefixBlank>(); }
PreTokenizerPtr make_byte_speller() { return std::make_unique<ByteSpeller>(); }

}  // namespace rhetor
