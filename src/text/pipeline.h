// A tokenizer composed as Hugging Face's tokenizer.json composes it: added tokens, normaliser, pre-tokeniser, model, post-processor,
// decoder. The model is text/token_model.h; everything else is made from JSON here.
// Thread-safety: immutable after construction.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "text/token_model.h"
#include "text/tokenizer.h"

namespace rhetor {

// `parts` is a JSON object with the keys of tokenizer.json besides "model", each optional or null: "added_tokens" (a list),
// "normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding". Untrusted: fails with one sentence that names `name`.
TokenizerPtr make_pipeline(TokenModelPtr model, std::string_view parts, const std::string& name = "tokenizer.json");

// The words that the model would be given for a text: what training counts. `parts` as above. Thread-safe.
using WordSplitter = std::function<void(std::string_view text, const std::function<void(std::string_view word)>& each)>;
WordSplitter make_word_splitter(std::string_view parts, const std::string& name = "tokenizer.json");

}  // namespace rhetor
