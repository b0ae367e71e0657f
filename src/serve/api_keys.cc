#include "serve/api_keys.h"

#include <algorithm>

#include "base/error.h"
#include "base/file.h"

namespace rhetor {
namespace {

constexpr std::uint64_t kFileLimit = 1 << 20;
constexpr std::size_t kShortest = 8, kLongest = 512;  // bytes of a key

std::string_view trimmed(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

// The time depends on the length of what was presented, which its sender knows, and on nothing else.
bool same(const std::string& secret, std::string_view presented) {
  unsigned difference = secret.size() != presented.size();
  for (std::size_t i = 0; i < presented.size(); ++i)
    difference |= static_cast<unsigned char>(presented[i]) ^ static_cast<unsigned char>(secret[i % secret.size()]);
  return difference == 0;
}

}  // namespace

void ApiKeys::add_line(std::string_view line, const std::string& where) {
  line = trimmed(line);
  if (line.empty() || line.front() == '#') return;
  const std::size_t space = line.find_first_of(" \t");
  const std::string_view secret = space == std::string_view::npos ? line : trimmed(line.substr(space));
  if (secret.find_first_of(" \t") != std::string_view::npos)
    fail("{} has more than a name and a key; expected KEY or NAME KEY", where);
  if (secret.size() < kShortest || secret.size() > kLongest)
    fail("{} holds a key of {} characters; a key has {} to {}", where, secret.size(), kShortest, kLongest);
  if (!std::all_of(secret.begin(), secret.end(), [](char c) { return c > ' ' && c < 0x7f; }))
    fail("{} holds a key with characters that cannot stand in an HTTP header; use letters, digits and punctuation", where);
  std::string name =
      space == std::string_view::npos ? fmt::format("key {}", keys_.size() + 1) : std::string(line.substr(0, space));
  keys_.push_back({std::move(name), std::string(secret)});
}

ApiKeys ApiKeys::from_file(const std::filesystem::path& path) {
  const std::string text = read_file(path, kFileLimit);
  ApiKeys out;
  int number = 1;
  for (std::size_t at = 0; at < text.size(); ++number) {
    const std::size_t end = std::min(text.size(), text.find('\n', at));
    out.add_line(std::string_view(text).substr(at, end - at), fmt::format("'{}', line {},", path.string(), number));
    at = end + 1;
  }
  if (out.empty()) fail("'{}' holds no API key; give one a line, or leave the file out to let everybody in", path.string());
  return out;
}

ApiKeys ApiKeys::from_list(std::string_view list, const std::string& where) {
  ApiKeys out;
  while (!list.empty()) {
    const std::size_t end = std::min(list.size(), list.find(','));
    out.add_line(list.substr(0, end), where);
    list.remove_prefix(std::min(list.size(), end + 1));
  }
  return out;
}

void ApiKeys::add(const ApiKeys& others) { keys_.insert(keys_.end(), others.keys_.begin(), others.keys_.end()); }

std::optional<std::string> ApiKeys::find(std::string_view presented) const {
  const Key* found = nullptr;
  for (const Key& key : keys_) {
    if (same(key.secret, presented)) found = &key;
  }
  if (!found) return {};
  return found->name;
}

}  // namespace rhetor
