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
