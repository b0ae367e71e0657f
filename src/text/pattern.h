// Regular expressions as tokenizer.json writes them (Oniguruma's syntax), run by PCRE2's just-in-time compiler. Internal to the room.
// Thread-safety: a Pattern is immutable; find may run concurrently.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace rhetor {

class Pattern {
 public:
  // Untrusted: fails with a sentence that starts with `where`. What Oniguruma means and PCRE2 does not is translated: \s \w \h, classes
  // with &&, \uHHHH, (?m), {,n}, and ^ $ at every line.
  static std::shared_ptr<const Pattern> regex(std::string_view oniguruma, const std::string& where);
  static std::shared_ptr<const Pattern> literal(std::string_view text);
  // PCRE2's own syntax. REQUIRES: it compiles.
  static std::shared_ptr<const Pattern> trusted(const std::string& pcre);
  ~Pattern();
  Pattern(const Pattern&) = delete;
  Pattern& operator=(const Pattern&) = delete;

  struct Match { std::size_t begin, end; };
  // The leftmost match at or after `from`. Text before `from` is context. REQUIRES: valid UTF-8.
  // Fails if the expression is one of those that take exponential time on this text.
  bool find(std::string_view text, std::size_t from, Match& match) const;
  // Calls each(begin, end, is_match) for all matches and what lies between them, in order: together they are the text.
  template <class Each>
  void cut(std::string_view text, Each&& each) const {
    std::size_t done = 0, from = 0;
    Match m{0, 0};
    bool any = false;
    while (from <= text.size() && find(text, from, m)) {
      if (m.begin == m.end && any && m.begin == done) {  // no empty match right after a match
        if (from >= text.size()) break;
        from = m.end + character(text, m.end);
        continue;
      }
      if (m.begin > done) each(done, m.begin, false);
      each(m.begin, m.end, true);
      any = true;
      done = m.end;
      from = m.end > m.begin ? m.end : m.end + character(text, m.end);
    }
    if (done < text.size()) each(done, text.size(), false);
  }
  // The text with every match replaced; "$1", "${name}" and "$$" in `content` stand for groups and a dollar if `expand`.
  std::string replaced(std::string_view text, std::string_view content, bool expand) const;
  // The name of the last (*MARK) passed by the match found last on this thread, or null.
  const char* mark() const;

 private:
  Pattern() = default;
  static std::size_t character(std::string_view text, std::size_t at);
  static std::shared_ptr<const Pattern> compile(std::string_view pcre, std::string_view shown, const std::string& where);
  void* code_ = nullptr;        // pcre2_code
  bool jit_ = false;
  std::string literal_;         // if not empty: looked for as it is
};

// Oniguruma's syntax to PCRE2's.
std::string pcre_from_oniguruma(std::string_view pattern);

}  // namespace rhetor
