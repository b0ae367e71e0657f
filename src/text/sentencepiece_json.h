// A SentencePiece tokenizer as tokenizer.json, in the parts that Hugging Face's converter uses: the same ids on ordinary text. What that
// format cannot say (user-defined pieces inside normalisation, float sums) may differ on odd text. Internal to the room.
#pragma once

#include <string>
#include <string_view>

#include "text/sentencepiece_file.h"
#include "text/token_model.h"

namespace rhetor {

std::string sentencepiece_json(const SentencePieceFile& file, const TokenModel& model);

// Untrusted bytes of a .model file; `name` is for messages.
TokenizerPtr sentencepiece_from_bytes(std::string_view bytes, const std::string& name);

}  // namespace rhetor
