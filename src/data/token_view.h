// Documents as one long row of token ids, wherever they lie: in memory or in mapped shards.
// Thread-safety: immutable; copies are cheap and share the shards.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/shard.h"

namespace rhetor {

class TokenView {
 public:
  TokenView() = default;
  // Borrows both; `documents` are the beginnings (empty = one document).
  TokenView(const std::vector<TokenId>& tokens, const std::vector<std::int64_t>& documents);
  // One after the other. Ids outside [0, vocab) fail when they are read.
  TokenView(std::vector<std::shared_ptr<const TokenShard>> shards, std::int64_t vocab);

  std::int64_t tokens() const { return tokens_; }
  std::int64_t documents() const { return documents_; }
  // REQUIRES: 0 <= document < documents(), 0 <= position < tokens().
  std::int64_t begin_of(std::int64_t document) const;
  std::int64_t end_of(std::int64_t document) const;
  std::int64_t document_at(std::int64_t position) const;   // with empty documents: the last that begins there
  TokenId operator[](std::int64_t position) const;
  // `count` ids from `position` on; after the last comes the first again. REQUIRES: tokens() > 0.
  void copy(std::int64_t position, std::int64_t count, TokenId* to) const;

 private:
  struct Part {
    const std::byte* ids;
    const std::int64_t* starts;
    int token_bytes;
    std::int64_t first_token, tokens, first_document, documents;
    std::shared_ptr<const TokenShard> shard;   // null: borrowed
  };
  const Part& part_of_token(std::int64_t position) const;
  const Part& part_of_document(std::int64_t document) const;
  std::vector<Part> parts_;
  std::int64_t tokens_ = 0, documents_ = 0, vocab_ = 0;
};

}  // namespace rhetor
