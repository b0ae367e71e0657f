// Oniguruma's syntax to PCRE2's. Differences: \s is White_Space and \w takes marks (PCRE2's do not), \h is a hexadecimal digit, classes may
// hold classes and intersections, (?m) lets the dot match line ends, {,n} is {0,n}, and {n,m}+ repeats instead of being possessive.
#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "text/pattern.h"

namespace rhetor {
namespace {

constexpr std::string_view kWord = "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}";

constexpr std::string_view kSpace = "\\t-\\r \\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}";
// All others, for [^\S...]: classes cannot hold negated ones here.
constexpr std::string_view kNoSpace =
    "\\x{0}-\\x{8}\\x{E}-\\x{1F}!-\\x{84}\\x{86}-\\x{9F}\\x{A1}-\\x{167F}\\x{1681}-\\x{1FFF}\\x{200B}-\\x{2027}\\x{202A}-\\x{202E}\\x{2030}-\\x{205E}"
    "\\x{2060}-\\x{2FFF}\\x{3001}-\\x{10FFFF}";

class Translator {
 public:
  explicit Translator(std::string_view in) : in_(in) {}

  std::string run() {
    std::size_t atom = 0;                       // where the last atom starts in out_
    std::vector<std::size_t> groups;            // where the open groups start
    while (at_ < in_.size()) {
      const char c = in_[at_];
      if (c == '\\') {
        atom = out_.size();
        escape(false);
      } else if (c == '[') {
        atom = out_.size();
        out_ += set(0);
      } else if (c == '(') {
        groups.push_back(out_.size());
        open();
      } else if (c == ')') {
        atom = groups.empty() ? out_.size() : groups.back();
        if (!groups.empty()) groups.pop_back();
        take(1);
      } else if (c == '{') {
        interval(atom);
      } else if (c == '*' || c == '+' || c == '?') {
        take(1);
      } else {
        atom = out_.size();
        take(1);
        while (at_ < in_.size() && (static_cast<unsigned char>(in_[at_]) & 0xC0) == 0x80) take(1);
      }
    }
    return std::move(out_);
  }

 private:
  void take(std::size_t n) {
    out_ += in_.substr(at_, n);
    at_ += n;
  }
  char peek(std::size_t ahead) const { return at_ + ahead < in_.size() ? in_[at_ + ahead] : '\0'; }

  void escape(bool in_set) {
    const char c = peek(1);
    const auto replace = [&](std::string_view bare, std::string_view inside) {
      out_ += in_set ? inside : bare;
      at_ += 2;
    };
    const std::string word(kWord), space(kSpace);
    switch (c) {
      case 's': return replace("[" + space + "]", space);
      case 'S': return replace("[^" + space + "]", kNoSpace);
      case 'w': return replace("[" + word + "]", word);
      case 'W': return in_set ? take(2) : replace("[^" + word + "]", "");
      case 'h': return replace("[0-9a-fA-F]", "0-9a-fA-F");
      case 'H': return in_set ? take(2) : replace("[^0-9a-fA-F]", "");
      case 'Z': return replace("(?=\\n?\\z)", "Z");
      case 'u':
        if (at_ + 6 <= in_.size() && in_.substr(at_ + 2, 4).find_first_not_of("0123456789abcdefABCDEF") == std::string_view::npos) {
          out_ += "\\x{" + std::string(in_.substr(at_ + 2, 4)) + "}";
          at_ += 6;
          return;
        }
        return take(2);
      default: {
        const std::size_t close = peek(2) == '{' ? in_.find('}', at_) : std::string_view::npos;   // \p{L}, \x{20AC}
        return take(close != std::string_view::npos ? close + 1 - at_ : std::min<std::size_t>(2, in_.size() - at_));
      }
    }
  }

  // A class, translated. A && B becomes a look-ahead for A before B.
  std::string set(int depth) {
    std::string outer, outer_operand;
    outer.swap(out_);                           // the class is written to out_ and operand_ by itself
    outer_operand.swap(operand_);
    at_ += 1;
    bool negated = false;
    if (peek(0) == '^') {
      negated = true;
      ++at_;
    }
    bool empty = true, intersection = false;
    std::string terms;                          // operands before the last &&
    while (at_ < in_.size() && (in_[at_] != ']' || empty)) {
      empty = false;
      if (in_[at_] == '\\') {
        escape(true);
      } else if (in_[at_] == '[' && peek(1) == ':') {
        const std::size_t end = in_.find(":]", at_);
        take(end == std::string_view::npos ? 1 : end + 2 - at_);
      } else if (in_[at_] == '[' && depth < 8) {
        const std::string inner = set(depth + 1);
        if (inner.size() > 2 && inner[0] == '[' && inner[1] != '^') out_ += inner.substr(1, inner.size() - 2);
        else operand_ += "(?=" + inner + ")";   // a negated or composed one can only be an operand of &&
      } else if (in_[at_] == '&' && peek(1) == '&') {
        intersection = true;
        at_ += 2;
        terms += operand();
      } else {
        const char c = in_[at_++];
        if (c == '[') out_ += '\\';
        out_ += c;
      }
    }
    if (at_ < in_.size()) ++at_;
    std::string result;
    if (intersection) {
      terms += operand();
      result = negated ? "(?:(?!" + terms + "(?s:.))(?s:.))" : "(?:" + terms + "(?s:.))";
    } else if (!operand_.empty()) {             // [A[^B]]: a union with a negated class
      const std::string rest = out_.empty() ? "" : "|(?=[" + out_ + "])";
      result = std::string(negated ? "(?:(?!" : "(?:(?:") + operand_ + rest + ")(?s:.))";
    } else {
      result = (negated ? "[^" : "[") + out_ + "]";
    }
    out_.swap(outer);
    operand_.swap(outer_operand);
    return result;
  }
  // What was read of a class since the last &&, as a look-ahead.
  std::string operand() {
    std::string out = operand_;
    if (!out_.empty()) out += "(?=[" + out_ + "])";
    operand_.clear();
    out_.clear();
    return out;
  }

  // "(?m:" lets the dot match line ends here, which is PCRE2's s.
  void open() {
    take(1);
    if (peek(0) != '?') return;
    std::size_t end = at_ + 1;
    while (end < in_.size() && (in_[end] == 'i' || in_[end] == 'm' || in_[end] == 'x' || in_[end] == '-')) ++end;
    if (end >= in_.size() || (in_[end] != ':' && in_[end] != ')')) return take(1);
    for (; at_ < end; ++at_) out_ += in_[at_] == 'm' ? 's' : in_[at_];
  }

  void interval(std::size_t atom) {
    const std::size_t end = in_.find('}', at_);
    if (end == std::string_view::npos || in_.substr(at_ + 1, end - at_ - 1).find_first_not_of("0123456789,") != std::string_view::npos ||
        end == at_ + 1) {
      out_ += "\\{";
      ++at_;
      return;
    }
    out_ += '{';
    if (in_[at_ + 1] == ',') out_ += '0';
    out_ += in_.substr(at_ + 1, end - at_);
    at_ = end + 1;
    if (peek(0) == '+') {
      out_.insert(atom, "(?:");
      out_ += ')';
    }
  }

  std::string_view in_;
  std::size_t at_ = 0;
  std::string out_;
  std::string operand_;
};

}  // namespace

std::string pcre_from_oniguruma(std::string_view pattern) { return Translator(pattern).run(); }

}  // namespace rhetor
