// The Precompiled normaliser: SentencePiece's rules, applied to grapheme clusters and characters.
#include <array>

#include "text/normalizer.h"
#include "text/sentencepiece_charsmap.h"
#include "text/utf8.h"

namespace rhetor {
namespace {

constexpr std::size_t kMaxCharsmap = 64u << 20;

std::string from_base64(const JsonPart& part, const std::string& text) {
  std::string out;
  std::uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    int value = -1;
    if (c >= 'A' && c <= 'Z') value = c - 'A';
    else if (c >= 'a' && c <= 'z') value = c - 'a' + 26;
    else if (c >= '0' && c <= '9') value = c - '0' + 52;
    else if (c == '+') value = 62;
    else if (c == '/') value = 63;
    else if (c == '=') break;
    if (value < 0) fail("{}: 'precompiled_charsmap' is not base64", part.where());
    bits = bits << 6 | static_cast<std::uint32_t>(value);
    if (++count % 4 != 1) out += static_cast<char>(bits >> (6 - 2 * ((count - 1) % 4)) & 0xFF);
  }
  return out;
}

class Charsmap final : public Normalizer {
 public:
  explicit Charsmap(CharsMap rules) : rules_(std::move(rules)) {
    for (int c = 0; c < 128; ++c) {
      const char byte = static_cast<char>(c);
      std::string_view to;
      plain_[static_cast<std::size_t>(c)] = !find({&byte, 1}, to);
    }
    plain_['\r'] = false;   // may belong to the cluster \r\n
  }

  void apply(AlignedText& t) const override {
    const std::string_view text = t.text;
    bool modified = false;
    std::size_t i = plain_prefix(text, 0), copied = 0;
    if (i == text.size()) return;
    Rewriter out(t);
    while (i < text.size()) {
      const std::size_t length = grapheme_length(text, i);
      std::string_view to;
      if (length < 6 && find(text.substr(i, length), to)) {
        out.copy(copied, i);
        replace(t, out, i, length, to);
        copied = i + length;
        modified = true;
      } else {
        for (std::size_t k = i; k < i + length;) {
          const std::size_t one = code_point(text, k).length;
          if (find(text.substr(k, one), to)) {
            out.copy(copied, k);
            replace(t, out, k, one, to);
            copied = k + one;
            modified = true;
          }
          k += one;
        }
      }
      i = plain_prefix(text, i + length);
    }
    if (!modified) return;
    out.copy(copied, text.size());
    out.done();
  }

 private:

  // Where the next cluster starts that may change: an ASCII character before another is a cluster of its own.
  std::size_t plain_prefix(std::string_view text, std::size_t from) const {
    while (from < text.size()) {
      const auto c = static_cast<unsigned char>(text[from]);
      if (c >= 0x80 || !plain_[c] || (from + 1 < text.size() && static_cast<unsigned char>(text[from + 1]) >= 0x80)) break;
      ++from;
    }
    return from;
  }

  // Characters replace one for one; more than there were share the place of the last, fewer drop the rest.
  static void replace(AlignedText& t, Rewriter& out, std::size_t at, std::size_t length, std::string_view to) {
    const std::size_t end = at + length;
    for (std::size_t i = 0; i < to.size();) {
      const CodePoint c = code_point(to, i);
      out.put(c.value, at < end ? t.at(at) : t.before(end));
      if (at < end) at += code_point(t.text, at).length;
      i += c.length;
    }
  }

  // The replacement of the shortest rule that `chunk` starts with, as the `tokenizers` package has it.
  bool find(std::string_view chunk, std::string_view& to) const {
    const CharsMap::Match match = rules_.shortest(chunk);
    to = match.replacement;
    return match.length > 0 && utf8_valid_prefix(to) == to.size();   // a damaged table may point into a character
  }

  CharsMap rules_;
  std::array<bool, 128> plain_{};  // ASCII characters without a replacement
};

}  // namespace

NormalizerPtr make_charsmap_normalizer(const JsonPart& part) {
  if (!part.given("precompiled_charsmap")) return nullptr;
  const std::string text = part.text("precompiled_charsmap");
  if (text.size() > kMaxCharsmap) fail("{}: 'precompiled_charsmap' has {} bytes, the limit is {}", part.where(), text.size(), kMaxCharsmap);
  const std::string bytes = from_base64(part, text);
  if (bytes.empty()) return nullptr;
  return std::make_unique<Charsmap>(CharsMap(bytes, part.where()));
}

}  // namespace rhetor
