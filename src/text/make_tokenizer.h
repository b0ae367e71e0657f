// Training a whole tokenizer by the name of its kind, with the pipeline that models of that kind usually have.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace rhetor {

struct TokenizerTrainOptions {
  std::string kind = "byte-bpe";                  // one of tokenizer_kinds()
  std::int64_t vocab_size = 8192;
  std::vector<std::string> specials;              // empty: the kind's own
  std::function<void(double fraction)> progress;
};

struct TokenizerKind {
  std::string_view name, summary;
};
// byte-bpe            GPT-2's words, every byte has a token (as train_byte_bpe)
// bpe                 SentencePiece-like BPE: metaspace words, unknown characters by their bytes (LLaMA)
// wordpiece           BERT, lower case, no accents;  wordpiece-cased keeps both
// unigram             SentencePiece-like unigram model: NFKC, metaspace words (T5, XLM-R)
// word-level          words and punctuation marks as they are, the most frequent ones
const std::vector<TokenizerKind>& tokenizer_kinds();

// `documents` yields the next text, false at the end. Deterministic. Counting takes all cores.
TokenizerPtr train_tokenizer(const std::function<bool(std::string& document)>& documents, const TokenizerTrainOptions& options);

}  // namespace rhetor
