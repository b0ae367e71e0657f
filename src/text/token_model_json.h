// Token models as the "model" object of tokenizer.json.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <string>

#include "text/token_model.h"

namespace rhetor {

// Untrusted input: fails with one sentence that starts with `name` (the file). `type` may be left out, as old files do: the members tell.
TokenModelPtr token_model_from_json(const nlohmann::json& model, const std::string& name = "tokenizer.json");

// The "vocab" object of WordPiece and BPE, {"token": id, ...}: texts by id, "" for ids nobody uses.
std::vector<std::string> vocabulary_from_json(const nlohmann::json& vocab, const std::string& name);
// "a b" (the classic form, and a line of merges.txt) or ["a", "b"] (since tokenizers 0.20). `index` counts from 0, for messages.
std::pair<std::string, std::string> merge_from_json(const nlohmann::json& merge, std::size_t index, const std::string& name);

}  // namespace rhetor
