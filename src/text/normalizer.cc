#include "text/normalizer.h"

#include "text/byte_alphabet.h"
#include "text/pattern.h"

namespace rhetor {

void lower_case(AlignedText& t) {
  if (skip_ascii(t.text, 0) == t.text.size()) {   // places stay as they are
    for (char& c : t.text) c = static_cast<char>(c + (c >= 'A' && c <= 'Z' ? 32 : 0));
    return;
  }
  const std::size_t dotted = t.text.find("\xC4\xB0");   // U+0130 is the only one that becomes two characters
  if (dotted == std::string::npos) return map_characters(t, [](char32_t c) { return c < 0x80 || has(c, property::upper) ? lower_case(c) : c; });
  Rewriter out(t);
  for (std::size_t i = 0; i < t.text.size();) {
    const CodePoint c = code_point(t.text, i);
    out.put(lower_case(c.value), t.at(i));
    if (c.value == 0x130) out.put(0x307, t.at(i));
    i += c.length;
  }
  out.done();
}

void spell_bytes(AlignedText& t) {
  Rewriter out(t);
  for (std::size_t i = 0; i < t.text.size(); ++i) out.put(byte_alphabet().to_code[static_cast<unsigned char>(t.text[i])], t.at(i));
  out.done();
}

namespace {

class Sequence final : public Normalizer {
 public:
  explicit Sequence(std::vector<NormalizerPtr> steps) : steps_(std::move(steps)) {}
  void apply(AlignedText& t) const override {
    for (const auto& step : steps_) {
      if (step) step->apply(t);
    }
  }

 private:
  std::vector<NormalizerPtr> steps_;
};

// A normaliser without settings.
class Simple final : public Normalizer {
 public:
  explicit Simple(void (*apply)(AlignedText&)) : apply_(apply) {}
  void apply(AlignedText& t) const override { apply_(t); }

 private:
  void (*apply_)(AlignedText&);
};

class StripBlanks final : public Normalizer {
 public:
  StripBlanks(bool left, bool right) : left_(left), right_(right) {}
  void apply(AlignedText& t) const override {
    std::size_t begin = 0, end = t.text.size();
    while (left_ && begin < end) {
      const CodePoint c = code_point(t.text, begin);
      if (!has(c.value, property::space)) break;
      begin += c.length;
    }
    while (right_ && begin < end) {
      const CodePoint c = code_point_before(t.text, end);
      if (!has(c.value, property::space)) break;
      end -= c.length;
    }
    if (begin == 0 && end == t.text.size()) return;
    Rewriter out(t);
    out.copy(begin, end);
    out.done();
  }

 private:
  bool left_, right_;
};

class ReplaceMatches final : public Normalizer {
 public:
  ReplaceMatches(std::shared_ptr<const Pattern> pattern, std::string content) : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void apply(AlignedText& t) const override {
    Pattern::Match first{0, 0};
    if (!pattern_->find(t.text, 0, first)) return;
    Rewriter out(t);
    pattern_->cut(t.text, [&](std::size_t begin, std::size_t end, bool is_match) {
      if (is_match) out.put(content_, t.before(end));   // the content stands for the last character of the match
      else out.copy(begin, end);
    });
    out.done();
  }

 private:
  std::shared_ptr<const Pattern> pattern_;
  std::string content_;
};

class Affix final : public Normalizer {
 public:
  Affix(std::string text, bool prepend) : text_(std::move(text)), prepend_(prepend) {}
  void apply(AlignedText& t) const override {
    if (t.text.empty()) return;
    Rewriter out(t);
    if (prepend_) out.put(text_, t.at(0));
    out.copy(0, t.text.size());
    if (!prepend_) out.put(text_, t.before(t.text.size()));
    out.done();
  }

 private:
  std::string text_;
  bool prepend_;
};

// The cleaning of Google's NMT: controls go, odd blanks become blanks.
void nmt(AlignedText& t) {
  map_characters(t, [](char32_t c) -> char32_t {
    if ((c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F) return kDropped;
    if (c == 9 || c == 0xA || c == 0xC || c == 0xD || c == 0x1680 || (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
        c == 0xFEFF || c == 0xFFFD)
      return ' ';
    return c;
  });
}

void strip_accents(AlignedText& t) {
  if (skip_ascii(t.text, 0) == t.text.size()) return;
  map_characters(t, [](char32_t c) { return c >= 0x300 && has(c, property::mark) ? kDropped : c; });
}

template <NormalForm form>
void to_form(AlignedText& t) { normal_form(t, form); }

}  // namespace

std::shared_ptr<const Pattern> pattern_of(const JsonPart& part) {
  const Json& pattern = part.need("pattern");
  if (pattern.is_object() && pattern.size() == 1 && pattern.begin()->is_string()) {
    const auto& text = pattern.begin()->get_ref<const std::string&>();
    if (pattern.begin().key() == "Regex") return Pattern::regex(text, part.where());
    if (pattern.begin().key() == "String" && text.empty()) fail("{}: the text to look for is empty", part.where());
    if (pattern.begin().key() == "String") return Pattern::literal(text);
  }
  fail("{}: 'pattern' must be {{\"String\": ...}} or {{\"Regex\": ...}}, found {}", part.where(), shown_json(pattern));
}

NormalizerPtr make_normalizer(const Json& json, const std::string& where) {
  if (json.is_null()) return nullptr;
  const JsonPart part(json, where);
  const std::string type = part.type();
  static const struct {
    const char* type;
    void (*apply)(AlignedText&);
  } simple[] = {{"NFC", to_form<NormalForm::nfc>},   {"NFD", to_form<NormalForm::nfd>},     {"NFKC", to_form<NormalForm::nfkc>},
                {"NFKD", to_form<NormalForm::nfkd>}, {"Lowercase", lower_case},             {"StripAccents", strip_accents},
                {"Nmt", nmt},                        {"ByteLevel", spell_bytes}};
  for (const auto& s : simple) {
    if (type == s.type) return std::make_unique<Simple>(s.apply);
  }
  if (type == "Sequence") {
    std::vector<NormalizerPtr> steps;
    for (const Json& step : part.list("normalizers")) steps.push_back(make_normalizer(step, where));
    return std::make_unique<Sequence>(std::move(steps));
  }
  if (type == "BertNormalizer") return make_bert_normalizer(part);
  if (type == "Precompiled") return make_charsmap_normalizer(part);
  if (type == "Strip" || type == "StripNormalizer") return std::make_unique<StripBlanks>(part.flag("strip_left", true), part.flag("strip_right", true));
  if (type == "Replace") return std::make_unique<ReplaceMatches>(pattern_of(part), part.text("content"));
  if (type == "Prepend") return std::make_unique<Affix>(part.text("prepend"), true);
  if (type == "Append") return std::make_unique<Affix>(part.text("append"), false);
  fail("{} is not a known normalizer; known are BertNormalizer, NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Strip, Replace, Prepend, Append, "
       "Nmt, Precompiled, ByteLevel and Sequence", part.where());
}

}  // namespace rhetor
