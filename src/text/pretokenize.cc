#include "text/pretokenize.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <new>
#include <string>

#include "base/error.h"
#include "text/utf8.h"

namespace rhetor {
namespace {

// GPT-2's pattern with \s written out as Unicode White_Space: PCRE2's \s would add U+180E, which other tokenizers do not.
constexpr const char* kPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^W\p{L}\p{N}]+|[W]+(?![^W])|[W]+)";
constexpr const char* kWhiteSpace = R"(\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

// Compiled once and read-only afterwards, hence shared by all threads.
struct Gpt2Pattern {
  pcre2_code* code = nullptr;
  bool jit = false;
  Gpt2Pattern() {
    std::string text;
    for (const char* c = kPattern; *c; ++c) {
      if (*c == 'W') text += kWhiteSpace;
      else text += *c;
    }
    int error = 0;
    PCRE2_SIZE where = 0;
    code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED,
                         &error, &where, nullptr);
    check(code != nullptr, "the pre-tokenisation pattern does not compile");
    // Hardened systems may refuse executable memory; the interpreter is slower and gives the same words.
    jit = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;
  }
};

const Gpt2Pattern& pattern() {
  static const Gpt2Pattern instance;
  return instance;
}

}  // namespace

WordScanner::WordScanner(std::string_view text)
    : text_(text), match_(pcre2_match_data_create(1, nullptr)) {
  if (match_ == nullptr) throw std::bad_alloc();
}

WordScanner::~WordScanner() { pcre2_match_data_free(static_cast<pcre2_match_data*>(match_)); }

bool WordScanner::next(std::string_view& word) {
  if (at_ == text_.size()) return false;
  if (at_ == word_end_) {
    if (at_ == run_end_) run_end_ = at_ + utf8_valid_prefix(text_.substr(at_));
    if (at_ == run_end_) {  // not UTF-8 here: one word up to the next valid character
      while (run_end_ < text_.size()) {
        const Utf8Char c = utf8_char(text_.substr(run_end_));
        if (c.kind == Utf8::valid) break;
        run_end_ += static_cast<std::size_t>(c.length);
      }
      word_end_ = run_end_;
    } else {
      const auto* subject = reinterpret_cast<PCRE2_SPTR>(text_.data() + at_);
      auto* match = static_cast<pcre2_match_data*>(match_);
      const Gpt2Pattern& p = pattern();
      int found = p.jit ? pcre2_jit_match(p.code, subject, run_end_ - at_, 0, 0, match, nullptr) : PCRE2_ERROR_JIT_STACKLIMIT;
      if (found == PCRE2_ERROR_JIT_STACKLIMIT)
        found = pcre2_match(p.code, subject, run_end_ - at_, 0, PCRE2_NO_UTF_CHECK, match, nullptr);
      check(found > 0, "the pre-tokenisation pattern must match any valid text");
      word_end_ = at_ + pcre2_get_ovector_pointer(match)[1];
      check(word_end_ > at_, "the pre-tokenisation pattern matched nothing");
    }
  }
  std::size_t end = word_end_;
  if (end - at_ > kMaxWordBytes) end = at_ + utf8_cut(text_.substr(at_, word_end_ - at_), kMaxWordBytes);
  word = text_.substr(at_, end - at_);
  at_ = end;
  return true;
}

}  // namespace rhetor
