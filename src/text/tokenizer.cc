#include "text/tokenizer.h"

#include "base/error.h"
#include "base/file.h"

namespace rhetor {

std::string Tokenizer::decode(const std::vector<TokenId>& ids, bool keep_specials) const {
  std::string out;
  for (const TokenId id : ids) {
    if (keep_specials || !is_special(id)) out += token_bytes(id);
  }
  return out;
}

// Byte-level: the tokens of a text are its bytes, in order.
Encoding Tokenizer::encode_ranges(std::string_view text) const {
  Encoding out;
  out.ids = encode(text, false);
  std::uint32_t at = 0;
  for (const TokenId id : out.ids) {
    const auto end = at + static_cast<std::uint32_t>(token_bytes(id).size());
    out.ranges.push_back({at, end});
    at = end;
  }
  out.segments.assign(out.ids.size(), 0);
  out.added.assign(out.ids.size(), 0);
  return out;
}

Encoding Tokenizer::encode_template(std::string_view text, const std::string_view* pair) const {
  const TokenId open = special("<|cls|>"), close = special("<|sep|>");
  Encoding out;
  const auto add = [&](TokenId id, std::int32_t segment) {
    if (id < 0) return;
    out.ids.push_back(id);
    out.segments.push_back(segment);
    out.ranges.push_back({});
    out.added.push_back(1);
  };
  const auto append = [&](std::string_view part, std::int32_t segment) {
    const Encoding e = encode_ranges(part);
    out.ids.insert(out.ids.end(), e.ids.begin(), e.ids.end());
    out.ranges.insert(out.ranges.end(), e.ranges.begin(), e.ranges.end());
    out.segments.insert(out.segments.end(), e.ids.size(), segment);
    out.added.insert(out.added.end(), e.ids.size(), 0);
    add(close, segment);
  };
  add(open, 0);
  append(text, 0);
  if (pair) append(*pair, 1);
  return out;
}

void Tokenizer::save(const std::filesystem::path& path) const { write_file_atomic(path, to_json()); }

TokenizerPtr load_tokenizer(const std::filesystem::path& path) {
  std::error_code ignored;
  std::filesystem::path file = path;
  if (std::filesystem::is_directory(path, ignored)) {
    file /= "tokenizer.json";
    if (!std::filesystem::exists(file, ignored))
      fail(ErrorKind::not_found, "the model folder '{}' has no tokenizer.json; give the folder that 'rhetor train' wrote, or a "
           "tokenizer.json file", path.string());
  }
  // The largest published vocabularies are below 40 MB as JSON.
  return tokenizer_from_json(read_file(file, 256u << 20), file.string());
}

}  // namespace rhetor
