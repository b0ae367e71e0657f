// What a special token is for, whatever a vocabulary calls it: "<|mask|>", "[MASK]" and "<mask>" are one thing.
#pragma once

#include <string_view>

#include "text/tokenizer.h"

namespace rhetor {

enum class TokenRole {
  end_of_text,   // between documents, and where generating stops: <|endoftext|>, </s>, ...
  begin,         // before a document: <s>, <|begin_of_text|>; GPT-2 has <|endoftext|> for both
  classify,      // whose hidden state stands for the sequence: [CLS], <s>
  separate,      // between and after the texts of a pair: [SEP], </s>
  pad,
  mask,
  unknown,
};

// Its id, or -1 if the vocabulary has none. The first that exists of the names in use, best first.
TokenId token_for(const Tokenizer& tokenizer, TokenRole role);
// By one of its names, as texts of templates and recipes give it: special("<|cls|>") with the names of its role; -1 if there is none.
TokenId token_named(const Tokenizer& tokenizer, std::string_view name);
std::string_view role_name(TokenRole role);

}  // namespace rhetor
