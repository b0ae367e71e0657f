#include "text/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <new>

#include "base/error.h"
#include "text/unicode.h"
#include "text/utf8.h"

namespace rhetor {
namespace {

constexpr std::size_t kMaxPattern = 16 << 10;
constexpr std::uint32_t kMatchLimit = 20'000'000;  // steps of one match; published patterns need a few for each character

// What matching needs besides the code, one for each thread.
struct Workspace {
  pcre2_match_data* match = pcre2_match_data_create(32, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  Workspace() {
    if (match == nullptr || context == nullptr) throw std::bad_alloc();
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_heap_limit(context, 64 << 10);  // KiB
  }
  ~Workspace() {
    pcre2_match_data_free(match);
    pcre2_match_context_free(context);
  }
};
Workspace& workspace() {
  thread_local Workspace instance;
  return instance;
}

}  // namespace

Pattern::~Pattern() { pcre2_code_free(static_cast<pcre2_code*>(code_)); }

std::shared_ptr<const Pattern> Pattern::compile(std::string_view pcre, std::string_view shown, const std::string& where) {
  const std::shared_ptr<Pattern> out(new Pattern);
  int error = 0;
  PCRE2_SIZE at = 0;
  out->code_ = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pcre.data()), pcre.size(),
                             PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &at, nullptr);
  if (out->code_ == nullptr) {
    PCRE2_UCHAR message[200];
    pcre2_get_error_message(error, message, sizeof message);
    fail("{} has the regular expression '{}', which cannot be used: {}", where, utf8_cleaned(shown.substr(0, utf8_cut(shown, 60))),
         reinterpret_cast<const char*>(message));
  }
  // Hardened systems may refuse executable memory; the interpreter is slower and finds the same.
  out->jit_ = pcre2_jit_compile(static_cast<pcre2_code*>(out->code_), PCRE2_JIT_COMPLETE) == 0;
  return out;
}

std::shared_ptr<const Pattern> Pattern::regex(std::string_view oniguruma, const std::string& where) {
  if (oniguruma.size() > kMaxPattern) fail("{} has a regular expression of {} bytes, the limit is {}", where, oniguruma.size(), kMaxPattern);
  return compile(pcre_from_oniguruma(oniguruma), oniguruma, where);
}

std::shared_ptr<const Pattern> Pattern::trusted(const std::string& pcre) { return compile(pcre, pcre, "Rhetor"); }

std::shared_ptr<const Pattern> Pattern::literal(std::string_view text) {
  check(!text.empty(), "a literal pattern needs a text");
  const std::shared_ptr<Pattern> out(new Pattern);
  out->literal_ = text;
  return out;
}

std::size_t Pattern::character(std::string_view text, std::size_t at) { return at < text.size() ? code_point(text, at).length : 1; }

bool Pattern::find(std::string_view text, std::size_t from, Match& match) const {
  if (!literal_.empty()) {
    const std::size_t at = text.find(literal_, from);
    if (at == std::string_view::npos) return false;
    match = {at, at + literal_.size()};
    return true;
  }
  Workspace& w = workspace();
  const auto* code = static_cast<const pcre2_code*>(code_);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  int found = jit_ ? pcre2_jit_match(code, subject, text.size(), from, 0, w.match, w.context) : PCRE2_ERROR_JIT_STACKLIMIT;
  if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, w.match, w.context);
  if (found == PCRE2_ERROR_NOMATCH) return false;
  if (found < 0)
    fail(ErrorKind::resource, "the tokenizer's regular expression takes too many steps on this text (PCRE2 error {}); use a simpler expression or "
         "shorter texts", found);
  const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(w.match);
  if (ends[0] > ends[1] || ends[0] < from) return false;  // \K inside a look-ahead
  match = {ends[0], ends[1]};
  return true;
}

const char* Pattern::mark() const { return reinterpret_cast<const char*>(pcre2_get_mark(workspace().match)); }

std::string Pattern::replaced(std::string_view text, std::string_view content, bool expand) const {
  std::string out;
  cut(text, [&](std::size_t begin, std::size_t end, bool is_match) {
    if (!is_match) out += text.substr(begin, end - begin);
    else if (!expand || code_ == nullptr) out += content;
    else {
      const auto* code = static_cast<const pcre2_code*>(code_);
      pcre2_match_data* match = workspace().match;
      const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(match);
      std::uint32_t groups = 0;
      pcre2_pattern_info(code, PCRE2_INFO_CAPTURECOUNT, &groups);
      groups = std::min(groups, pcre2_get_ovector_count(match) - 1);
      for (std::size_t i = 0; i < content.size(); ++i) {
        const bool more = i + 1 < content.size();
        if (content[i] != '$' || !more) {
          out += content[i];
          continue;
        }
        if (content[i + 1] == '$') {
          out += content[++i];
          continue;
        }
        const bool braces = content[i + 1] == '{';
        std::size_t last = i + 1 + braces;
        const auto named = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
        const std::size_t name_at = last;
        while (last < content.size() && named(content[last])) ++last;
        const std::string name(content.substr(name_at, last - name_at));
        if (name.empty() || (braces && (last == content.size() || content[last] != '}'))) {
          out += content[i];
          continue;
        }
        const bool digits = name.find_first_not_of("0123456789") == std::string::npos;
        const int number = digits ? (name.size() < 6 ? std::stoi(name) : -1)
                                  : pcre2_substring_number_from_name(code, reinterpret_cast<PCRE2_SPTR>(name.c_str()));
        if (number >= 0 && static_cast<std::uint32_t>(number) <= groups && ends[2 * number] != PCRE2_UNSET)
          out += text.substr(ends[2 * number], ends[2 * number + 1] - ends[2 * number]);
        i = braces ? last : last - 1;
      }
    }
  });
  return out;
}

}  // namespace rhetor
