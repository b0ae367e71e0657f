#include "data/token_view.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace rhetor {
namespace {

constexpr std::int64_t kOneDocument = 0;

}  // namespace

TokenView::TokenView(const std::vector<TokenId>& tokens, const std::vector<std::int64_t>& documents)
    : tokens_(static_cast<std::int64_t>(tokens.size())),
      documents_(std::max<std::int64_t>(1, static_cast<std::int64_t>(documents.size()))) {
  parts_.push_back({.ids = reinterpret_cast<const std::byte*>(tokens.data()),
                    .starts = documents.empty() ? &kOneDocument : documents.data(),
                    .token_bytes = 4,
                    .first_token = 0,
                    .tokens = tokens_,
                    .first_document = 0,
                    .documents = documents_,
                    .shard = nullptr});
}

TokenView::TokenView(std::vector<std::shared_ptr<const TokenShard>> shards, std::int64_t vocab) : vocab_(vocab) {
  for (auto& shard : shards) {
    if (shard->tokens() == 0) continue;
    const TokenShard& s = *shard;
    parts_.push_back({.ids = s.ids(),
                      .starts = s.starts().data(),
                      .token_bytes = s.token_bytes(),
                      .first_token = tokens_,
                      .tokens = s.tokens(),
                      .first_document = documents_,
                      .documents = s.documents(),
                      .shard = std::move(shard)});
    tokens_ += s.tokens();
    documents_ += s.documents();
  }
}

const TokenView::Part& TokenView::part_of_token(std::int64_t position) const {
  if (parts_.size() == 1) return parts_[0];
  return *(std::upper_bound(parts_.begin(), parts_.end(), position,
                            [](std::int64_t at, const Part& p) { return at < p.first_token; }) -
           1);
}

const TokenView::Part& TokenView::part_of_document(std::int64_t document) const {
  if (parts_.size() == 1) return parts_[0];
  return *(std::upper_bound(parts_.begin(), parts_.end(), document,
                            [](std::int64_t at, const Part& p) { return at < p.first_document; }) -
           1);
}

std::int64_t TokenView::begin_of(std::int64_t document) const {
  const Part& part = part_of_document(document);
  return part.first_token + part.starts[document - part.first_document];
}

std::int64_t TokenView::end_of(std::int64_t document) const {
  const Part& part = part_of_document(document);
  const std::int64_t next = document - part.first_document + 1;
  return part.first_token + (next < part.documents ? part.starts[next] : part.tokens);
}

std::int64_t TokenView::document_at(std::int64_t position) const {
  const Part& part = part_of_token(position);
  const std::int64_t* after = std::upper_bound(part.starts, part.starts + part.documents, position - part.first_token);
  return part.first_document + std::max<std::int64_t>(0, after - part.starts - 1);
}

TokenId TokenView::operator[](std::int64_t position) const {
  TokenId id;
  copy(position, 1, &id);
  return id;
}

void TokenView::copy(std::int64_t position, std::int64_t count, TokenId* to) const {
  while (count > 0) {
    const Part& part = part_of_token(position);
    const std::int64_t at = position - part.first_token, n = std::min(count, part.tokens - at);
    if (part.token_bytes == 2) {
      const auto* from = reinterpret_cast<const std::uint16_t*>(part.ids) + at;
      for (std::int64_t i = 0; i < n; ++i) to[i] = from[i];
    } else {
      std::memcpy(to, part.ids + 4 * at, static_cast<std::size_t>(4 * n));
    }
    if (part.shard) {
      for (std::int64_t i = 0; i < n; ++i) {
        if (to[i] < 0 || to[i] >= vocab_)
          fail("'{}' has the token id {}, but its tokenizer has only {}; make the token folder again with `rhetor data tokenize`",
               part.shard->path().string(), to[i], vocab_);
      }
    }
    to += n;
    count -= n;
    position = position + n == tokens_ ? 0 : position + n;
  }
}

}  // namespace rhetor
