#include "text/sentencepiece_charsmap.h"

#include <cstring>

#include "base/error.h"

namespace rhetor {
namespace {

// A unit of the trie: bits 0-7 the byte that leads to it, bit 8 whether a value hangs below it, bit 9 whether the offset is in steps
// of 256, bits 10-30 the offset to its children; bit 31 marks a value.
bool has_value(std::uint32_t unit) { return (unit >> 8 & 1) != 0; }
std::uint32_t label(std::uint32_t unit) { return unit & (0x80000000u | 0xFFu); }
std::uint32_t offset(std::uint32_t unit) { return (unit >> 10) << ((unit >> 9 & 1) * 8); }

}  // namespace

CharsMap::CharsMap(std::string_view blob, const std::string& name) : blob_(blob) {
  if (blob.empty()) return;
  std::uint32_t bytes = 0;
  if (blob.size() > sizeof bytes) std::memcpy(&bytes, blob.data(), sizeof bytes);
  if (bytes == 0 || bytes % sizeof(std::uint32_t) != 0 || bytes >= blob.size() - sizeof bytes)
    fail("{}: the normalisation rules say that their trie has {} bytes and {} are there; the file is damaged", name, bytes, blob.size());
  if (blob.back() != '\0') fail("{}: the last replacement of the normalisation rules is not ended by a zero byte; the file is damaged", name);
  units_.resize(bytes / sizeof(std::uint32_t));
  std::memcpy(units_.data(), blob.data() + sizeof bytes, bytes);
  replacements_ = sizeof bytes + bytes;
}

CharsMap::Match CharsMap::longest(std::string_view text) const { return find(text, false); }
CharsMap::Match CharsMap::shortest(std::string_view text) const { return find(text, true); }

bool CharsMap::begins(std::string_view text) const {
  if (units_.empty()) return false;
  std::uint32_t at = offset(units_[0]);
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    at ^= byte;
    if (at >= units_.size() || label(units_[at]) != byte) return false;
    at ^= offset(units_[at]);
  }
  return true;
}

CharsMap::Match CharsMap::find(std::string_view text, bool shortest) const {
  Match match{0, {}};
  if (units_.empty()) return match;
  std::uint32_t at = offset(units_[0]);
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    at ^= byte;
    if (byte == 0 || at >= units_.size()) break;
    const std::uint32_t unit = units_[at];
    if (label(unit) != byte) break;
    at ^= offset(unit);
    if (!has_value(unit)) continue;
    if (at >= units_.size()) break;
    const std::size_t value = units_[at] & 0x7FFFFFFFu;
    if (value >= blob_.size() - replacements_) break;
    match = {i + 1, std::string_view(blob_.data() + replacements_ + value)};  // zero-ended: checked when read
    if (shortest) break;
  }
  return match;
}

}  // namespace rhetor
