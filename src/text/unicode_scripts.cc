// Script by code point. PCRE2 knows them by name only, so its tables are read once: the alternation of all scripts runs over all code
// points, and every run it finds carries the number of its script as a mark. Takes some milliseconds at first use.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>
#include <vector>

#include "text/pattern.h"
#include "text/unicode.h"

namespace rhetor {
namespace {

constexpr const char* kScripts =
    "Han Hiragana Katakana Adlam Ahom Anatolian_Hieroglyphs Arabic Armenian Avestan Balinese Bamum Bassa_Vah Batak Bengali Bhaiksuki Bopomofo "
    "Brahmi Braille Buginese Buhid Canadian_Aboriginal Carian Caucasian_Albanian Chakma Cham Cherokee Chorasmian Common Coptic Cuneiform Cypriot "
    "Cypro_Minoan Cyrillic Deseret Devanagari Dives_Akuru Dogra Duployan Egyptian_Hieroglyphs Elbasan Elymaic Ethiopic Georgian Glagolitic "
    "Gothic Grantha Greek Gujarati Gunjala_Gondi Gurmukhi Hangul Hanifi_Rohingya Hanunoo Hatran Hebrew Imperial_Aramaic Inherited "
    "Inscriptional_Pahlavi Inscriptional_Parthian Javanese Kaithi Kannada Kayah_Li Kharoshthi Khitan_Small_Script Khmer Khojki Khudawadi Lao "
    "Latin Lepcha Limbu Linear_A Linear_B Lisu Lycian Lydian Mahajani Makasar Malayalam Mandaic Manichaean Marchen Masaram_Gondi Medefaidrin "
    "Meetei_Mayek Mende_Kikakui Meroitic_Cursive Meroitic_Hieroglyphs Miao Modi Mongolian Mro Multani Myanmar Nabataean Nandinagari New_Tai_Lue "
    "Newa Nko Nushu Nyiakeng_Puachue_Hmong Ogham Ol_Chiki Old_Hungarian Old_Italic Old_North_Arabian Old_Permic Old_Persian Old_Sogdian "
    "Old_South_Arabian Old_Turkic Old_Uyghur Oriya Osage Osmanya Pahawh_Hmong Palmyrene Pau_Cin_Hau Phags_Pa Phoenician Psalter_Pahlavi Rejang "
    "Runic Samaritan Saurashtra Sharada Shavian Siddham SignWriting Sinhala Sogdian Sora_Sompeng Soyombo Sundanese Syloti_Nagri Syriac Tagalog "
    "Tagbanwa Tai_Le Tai_Tham Tai_Viet Takri Tamil Tangsa Tangut Telugu Thaana Thai Tibetan Tifinagh Tirhuta Toto Ugaritic Vai Vithkuqi Wancho "
    "Warang_Citi Yezidi Yi Zanabazar_Square";

struct Run {
  char32_t begin;
  int script;
};

std::vector<Run> read_runs() {
  // Four of five code points have no script: they go first, or each would be tried as every script.
  std::string pattern = "(*MARK:0)\\p{sc:Unknown}+", names = kScripts;
  int number = 0;
  for (std::size_t at = 0; at < names.size(); ++number) {
    const std::size_t end = std::min(names.find(' ', at), names.size());
    pattern += "|(*MARK:" + std::to_string(number + 1) + ")\\p{sc:" + names.substr(at, end - at) + "}+";
    at = end + 1;
  }
  const auto scripts = Pattern::trusted(pattern);
  std::string all;
  std::vector<Run> out;
  // A block at a time: the text stays small.
  for (char32_t block = 0; block < 0x110000; block += 0x1000) {
    all.clear();
    for (char32_t c = block; c < block + 0x1000; ++c) {
      if (c < 0xD800 || c > 0xDFFF) append_utf8(all, c);
    }
    scripts->cut(all, [&](std::size_t begin, std::size_t, bool is_match) {
      const int script = is_match ? std::atoi(scripts->mark()) : 0;
      if (out.empty() || out.back().script != script) out.push_back({code_point(all, begin).value, script});
    });
  }
  return out;
}

}  // namespace

int script_number(char32_t c) {
  static const std::vector<Run> runs = read_runs();
  if (c == U' ') return 0;
  if (c == 0x30FC) return 1;
  const auto after = std::upper_bound(runs.begin(), runs.end(), c, [](char32_t value, const Run& run) { return value < run.begin; });
  const int script = after == runs.begin() ? 0 : std::prev(after)->script;
  return script == 2 || script == 3 ? 1 : script;   // kana count as Han
}

}  // namespace rhetor
