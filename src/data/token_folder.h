// A folder of token shards: what `rhetor data tokenize` makes and training reads.
//
//   tokens.json                  the list of what is in it, written last: format, vocabulary, shards with their counts and
//   checksums tokenizer.json               the tokenizer that made the ids chat_template.json           what conversations were
//   rendered with, if that was not the tokenizer's default train-00000.tokens, ...      shards (data/shard.h)
//   validation-00000.tokens, ... documents kept for validation
//
// The folder is made under a temporary name and renamed when it is whole, so what has the right name is complete.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "data/corpus.h"
#include "data/token_view.h"

namespace rhetor {

struct TokenizeOptions {
  CorpusOptions corpus;
  double validation = 0.005;                 // share of the documents, chosen by their number
  std::int64_t shard_tokens = 1 << 27;       // a shard ends with the document that passes it
};
struct TokenizeProgress {
  std::uint64_t bytes = 0;                   // of text
  std::int64_t tokens = 0, documents = 0;
};
// Encodes the documents of `files` on all threads and writes `folder`, which must not exist or be empty. Each document is
// followed by the tokenizer's end-of-text token if it has one. Memory holds a few MiB of text and its tokens. Fails naming the
// file.
TokenizeProgress tokenize_to_folder(const std::vector<std::filesystem::path>& files, const Tokenizer& tokenizer,
                                    const std::filesystem::path& folder, const TokenizeOptions& options = {},
                                    const std::function<void(const TokenizeProgress&)>& progress = {});

bool is_token_folder(const std::filesystem::path& path);

// Immutable, thread-safe.
struct TokenFolder {
  std::filesystem::path path;
  TokenizerPtr tokenizer;
  ChatTemplatePtr chat_template;             // null: the default of the tokenizer
  std::uint64_t hash = 0;                    // of everything in it
  std::uint64_t source_bytes = 0;
  std::vector<std::shared_ptr<const TokenShard>> train_shards, validation_shards;
  TokenView train, validation;

  // Maps the shards and checks that they are those of the list; fails with one sentence naming the file.
  static TokenFolder open(const std::filesystem::path& path);
  // Reads everything, on all threads; fails naming the shard that is damaged.
  void verify() const;
};

}  // namespace rhetor
