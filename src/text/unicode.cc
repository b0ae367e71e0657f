#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <memory>
#include <unordered_map>

namespace rhetor {
namespace {

// Hangul syllables compose by arithmetic (Unicode 15, section 3.12).
constexpr char32_t kSBase = 0xAC00, kLBase = 0x1100, kVBase = 0x1161, kTBase = 0x11A7, kLCount = 19, kVCount = 21, kTCount = 28;
constexpr char32_t kSCount = kLCount * kVCount * kTCount;

bool between(char32_t c, char32_t low, char32_t high) { return c >= low && c <= high; }

bool is_space(char32_t c) {
  return between(c, 9, 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || between(c, 0x2000, 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

// The blocks of ideographs in the BERT normaliser of Hugging Face's tokenizers, including its 0x2B920 where Unicode has 0x2B820: the ids
// of published models depend on it.
bool is_ideograph(char32_t c) {
  return between(c, 0x4E00, 0x9FFF) || between(c, 0x3400, 0x4DBF) || between(c, 0x20000, 0x2A6DF) || between(c, 0x2A700, 0x2B73F) ||
         between(c, 0x2B740, 0x2B81F) || between(c, 0x2B920, 0x2CEAF) || between(c, 0xF900, 0xFAFF) || between(c, 0x2F800, 0x2FA1F);
}

// Letters that are symbols by category (Other_Alphabetic outside the marks).
bool is_letter_symbol(char32_t c) {
  return between(c, 0x24B6, 0x24E9) || between(c, 0x1F130, 0x1F149) || between(c, 0x1F150, 0x1F169) || between(c, 0x1F170, 0x1F189);
}

// Pairs that compose, from the decompositions of all characters that are not excluded from composition.
struct Compositions {
  std::unordered_map<std::uint64_t, char32_t> pairs;
  std::vector<char32_t> seconds;  // sorted
  static std::uint64_t key(char32_t a, char32_t b) { return static_cast<std::uint64_t>(a) << 32 | b; }
  Compositions() {
    for (char32_t c = 0xC0; c < 0x1E000; c = c == 0x3400 ? 0xF900 : c == 0x10000 ? 0x11000 : c + 1) {
      const utf8proc_property_t* p = utf8proc_get_property(static_cast<utf8proc_int32_t>(c));
      if (p->decomp_type != 0 || p->comp_exclusion || p->decomp_seqindex == UINT16_MAX) continue;
      utf8proc_int32_t parts[18];
      int boundary = 0;
      auto n = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts, 18, UTF8PROC_DECOMPOSE, &boundary);
      if (n < 2) continue;
      const auto second = static_cast<char32_t>(parts[n - 1]);
      n = utf8proc_normalize_utf32(parts, n - 1, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
      if (n != 1 || utf8proc_get_property(parts[0])->combining_class != 0) continue;
      pairs.emplace(key(static_cast<char32_t>(parts[0]), second), c);
      seconds.push_back(second);
    }
    std::sort(seconds.begin(), seconds.end());
    seconds.erase(std::unique(seconds.begin(), seconds.end()), seconds.end());
  }
};
const Compositions& compositions() {
  static const Compositions instance;
  return instance;
}

bool composes_back(char32_t c) {
  if (between(c, kVBase, kVBase + kVCount - 1) || between(c, kTBase + 1, kTBase + kTCount - 1)) return true;
  const auto& seconds = compositions().seconds;
  return std::binary_search(seconds.begin(), seconds.end(), c);
}

// Composes one decomposition again, which has no reordering left to do.
bool recomposes_to(const std::vector<char32_t>& parts, char32_t c) {
  char32_t first = parts[0];
  for (std::size_t i = 1; i < parts.size(); ++i) {
    first = compose(first, parts[i]);
    if (first == 0) return false;
  }
  return first == c;
}

std::uint32_t compute(char32_t c) {
  using namespace property;
  const auto value = static_cast<utf8proc_int32_t>(c);
  const utf8proc_property_t* p = utf8proc_get_property(value);
  const auto category = p->category;
  const auto in = [&](int low, int high) { return category >= low && category <= high; };
  std::uint32_t flags = 0;
  const auto set = [&](std::uint32_t flag, bool on) { flags |= on ? flag : 0; };
  set(space, is_space(c));
  set(other, in(UTF8PROC_CATEGORY_CC, UTF8PROC_CATEGORY_CO));
  set(punctuation, in(UTF8PROC_CATEGORY_PC, UTF8PROC_CATEGORY_PO) || (c < 0x80 && in(UTF8PROC_CATEGORY_SM, UTF8PROC_CATEGORY_SO)));
  set(numeric, in(UTF8PROC_CATEGORY_ND, UTF8PROC_CATEGORY_NO));
  set(mark, in(UTF8PROC_CATEGORY_MN, UTF8PROC_CATEGORY_ME));
  set(nonspacing, category == UTF8PROC_CATEGORY_MN);
  set(word, in(UTF8PROC_CATEGORY_LU, UTF8PROC_CATEGORY_NL) || category == UTF8PROC_CATEGORY_PC || is_letter_symbol(c) || c == 0x200C ||
                c == 0x200D);
  set(ideograph, is_ideograph(c));
  set(upper, lower_case(c) != c);
  if (between(c, 0xD800, 0xDFFF)) return flags;
  set(reorders, p->combining_class != 0);
  set(composes, composes_back(c));
  std::vector<char32_t> parts;
  decompose(c, false, parts);
  set(not_nfd, parts.size() != 1 || parts[0] != c);
  set(not_nfc, !recomposes_to(parts, c));
  parts.clear();
  decompose(c, true, parts);
  set(not_nfkd, parts.size() != 1 || parts[0] != c);
  set(not_nfkc, !recomposes_to(parts, c));
  return flags;
}

}  // namespace

namespace internal {

std::atomic<const std::uint32_t*> property_pages[0x1100];

// Pages live as long as the process; a thread that loses the race to publish one drops its own.
const std::uint32_t* make_property_page(std::uint32_t page) {
  auto made = std::make_unique<std::uint32_t[]>(256);
  for (std::uint32_t i = 0; i < 256; ++i) made[i] = compute(page << 8 | i);
  const std::uint32_t* expected = nullptr;
  if (property_pages[page].compare_exchange_strong(expected, made.get(), std::memory_order_acq_rel)) return made.release();
  return expected;
}

}  // namespace internal

void append_utf8(std::string& out, char32_t c) {
  const auto put = [&](char32_t byte) { out += static_cast<char>(byte); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3F));
    put(0x80 | (c >> 6 & 0x3F));
    put(0x80 | (c & 0x3F));
  }
}

char32_t lower_case(char32_t c) {
  if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
  if (c == 0x130) return 'i';
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}

std::uint8_t combining_class(char32_t c) {
  return static_cast<std::uint8_t>(utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->combining_class);
}

void decompose(char32_t c, bool compatible, std::vector<char32_t>& out) {
  utf8proc_int32_t parts[32];
  int boundary = 0;
  const int options = UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0);
  const auto n = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts, 32, static_cast<utf8proc_option_t>(options), &boundary);
  if (n <= 0) {
    out.push_back(c);
    return;
  }
  for (utf8proc_ssize_t i = 0; i < n; ++i) out.push_back(static_cast<char32_t>(parts[i]));
}

char32_t compose(char32_t first, char32_t second) {
  if (between(first, kLBase, kLBase + kLCount - 1) && between(second, kVBase, kVBase + kVCount - 1))
    return kSBase + ((first - kLBase) * kVCount + (second - kVBase)) * kTCount;
  if (between(first, kSBase, kSBase + kSCount - 1) && (first - kSBase) % kTCount == 0 && between(second, kTBase + 1, kTBase + kTCount - 1))
    return first + (second - kTBase);
  const auto& pairs = compositions().pairs;
  const auto found = pairs.find(Compositions::key(first, second));
  return found == pairs.end() ? 0 : found->second;
}

std::size_t grapheme_length(std::string_view text, std::size_t at) {
  CodePoint c = code_point(text, at);
  std::size_t end = at + c.length;
  utf8proc_int32_t state = 0;
  while (end < text.size()) {
    const CodePoint next = code_point(text, end);
    if (utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(c.value), static_cast<utf8proc_int32_t>(next.value), &state)) break;
    c = next;
    end += c.length;
  }
  return end - at;
}

}  // namespace rhetor
