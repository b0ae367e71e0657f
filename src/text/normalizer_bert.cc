// BERT's cleaning (Devlin et al. 2019): controls go, blanks become ' ', ideographs stand alone, accents and capitals go.
#include "text/normalizer.h"

namespace rhetor {
namespace {

class Bert final : public Normalizer {
 public:
  Bert(bool clean, bool ideographs, bool accents, bool lower) : clean_(clean), ideographs_(ideographs), accents_(accents), lower_(lower) {}
  void apply(AlignedText& t) const override {
    if (clean_) {
      map_characters(t, [](char32_t c) -> char32_t {
        if (c >= 0x20 && c < 0x7F) return c;
        if (c == '\t' || c == '\n' || c == '\r') return ' ';
        const std::uint32_t p = properties(c);
        if (c == 0 || c == 0xFFFD || (p & property::other) != 0) return kDropped;
        return (p & property::space) != 0 ? ' ' : c;
      });
    }
    const bool ascii = skip_ascii(t.text, 0) == t.text.size();
    if (ideographs_ && !ascii) separate_ideographs(t);
    if (accents_ && !ascii) {
      normal_form(t, NormalForm::nfd);
      map_characters(t, [](char32_t c) { return c >= 0x300 && has(c, property::nonspacing) ? kDropped : c; });
    }
    if (lower_) lower_case(t);
  }

 private:
  static void separate_ideographs(AlignedText& t) {
    Rewriter out(t);
    std::size_t copied = 0;
    for (std::size_t i = 0; i < t.text.size();) {
      const CodePoint c = code_point(t.text, i);
      if (c.value >= 0x3400 && has(c.value, property::ideograph)) {
        out.copy(copied, i);
        out.put(U' ', t.before(i));
        out.copy(i, i + c.length);
        out.put(U' ', t.at(i));
        copied = i + c.length;
      }
      i += c.length;
    }
    if (copied == 0) return;
    out.copy(copied, t.text.size());
    out.done();
  }

  bool clean_, ideographs_, accents_, lower_;
};

}  // namespace

NormalizerPtr make_bert_normalizer(const JsonPart& part) {
  const bool lower = part.flag("lowercase", true);
  return std::make_unique<Bert>(part.flag("clean_text", true), part.flag("handle_chinese_chars", true), part.flag("strip_accents", lower), lower);
}

}  // namespace rhetor
