// The settings of a tokenizer.json that are neither words nor tokens: how long, and the file's own form. Internal to the room.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "text/added_tokens.h"
#include "text/batch_encoding.h"
#include "text/json_reader.h"
#include "text/post_processor.h"
#include "text/token_model.h"

namespace rhetor {

// tokenizer.json's "truncation" and "padding".
std::optional<Truncation> read_truncation(const Json& json, const std::string& name);
std::optional<Padding> read_padding(const Json& json, const std::string& name);
// `added`: how many tokens the template will put in. What is cut off goes to the parts' `overflow` if `windows`.
void truncate(const Truncation& truncation, std::size_t added, bool windows, std::vector<EncodedPart>& parts);

// Opens the file's object and writes everything but the model: its components as they were read, added tokens in full.
std::string parts_as_json(const Json& root, const AddedTokens& added);

TokenizerPtr make_pipeline(TokenModelPtr model, const Json& root, const std::string& name);

}  // namespace rhetor
