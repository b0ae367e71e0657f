// The settings of a tokenizer.json that are neither words nor tokens: how long, and the file's own form. Internal to the room.
#pragma once

#include <string>
#include <vector>

#include "text/added_tokens.h"
#include "text/json_reader.h"
#include "text/post_processor.h"
#include "text/token_model.h"

namespace rhetor {

struct Truncation {
  bool on = false, left = false;                      // left: the beginning is cut off
  enum class Strategy { longest_first, only_first, only_second } strategy = Strategy::longest_first;
  std::int64_t max_length = 0;                        // tokens, with those of the template
};
// tokenizer.json's "truncation". Windows over what is cut off ("stride") are the caller's.
Truncation read_truncation(const Json& json, const std::string& name);
// `added`: how many tokens the template will put in.
void truncate(const Truncation& truncation, std::size_t added, std::vector<EncodedPart>& parts);

// Opens the file's object and writes everything but the model: its components as they were read, added tokens in full.
std::string parts_as_json(const Json& root, const AddedTokens& added);

TokenizerPtr make_pipeline(TokenModelPtr model, const Json& root, const std::string& name);

}  // namespace rhetor
