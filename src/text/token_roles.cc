#include "text/token_roles.h"

#include <array>
#include <span>

namespace rhetor {
namespace {

struct Names {
  TokenRole role;
  std::string_view name;
  std::array<std::string_view, 6> texts;   // best first; "" ends the list
};
constexpr Names kNames[] = {
    {TokenRole::end_of_text, "end of text", {"<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "[SEP]"}},
    {TokenRole::begin, "begin", {"<|begin_of_text|>", "<s>", "<bos>", "[BOS]", "<|endoftext|>", "[CLS]"}},
    {TokenRole::classify, "classify", {"<|cls|>", "[CLS]", "<cls>", "<s>", "", ""}},
    {TokenRole::separate, "separate", {"<|sep|>", "[SEP]", "<sep>", "</s>", "", ""}},
    {TokenRole::pad, "pad", {"<|pad|>", "[PAD]", "<pad>", "", "", ""}},
    {TokenRole::mask, "mask", {"<|mask|>", "[MASK]", "<mask>", "", "", ""}},
    {TokenRole::unknown, "unknown", {"<|unk|>", "[UNK]", "<unk>", "", "", ""}},
};

}  // namespace

TokenId token_for(const Tokenizer& tokenizer, TokenRole role) {
  for (const Names& names : kNames) {
    if (names.role != role) continue;
    for (const std::string_view text : names.texts) {
      if (text.empty()) break;
      if (const TokenId id = tokenizer.special(text); id >= 0) return id;
    }
  }
  return -1;
}

TokenId token_named(const Tokenizer& tokenizer, std::string_view name) {
  if (const TokenId id = tokenizer.special(name); id >= 0) return id;
  for (const Names& names : kNames) {
    if (names.texts[0] == name) return token_for(tokenizer, names.role);
  }
  return -1;
}

std::string_view role_name(TokenRole role) {
  for (const Names& names : kNames) {
    if (names.role == role) return names.name;
  }
  return "";
}

}  // namespace rhetor
