#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"
#include "data/batches.h"
#include "data/encode_documents.h"
#include "text/token_roles.h"

namespace rhetor {
namespace {

constexpr std::size_t kEncodedTogether = 8 << 20;  // documents encoded in parallel at a time
constexpr std::uint64_t kSplitStream = 0x73706c6974;

// Which documents are for validation: shuffled ones, as long as they fit into the fraction of tokens. Empty if none fits.
std::vector<bool> chosen(const std::vector<std::int64_t>& starts, std::int64_t total, double fraction, std::uint64_t seed) {
  const std::size_t n = starts.size();
  std::vector<bool> out(n);
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), std::size_t{0});
  Rng rng(seed, kSplitStream);
  for (std::size_t i = n; i > 1; --i) std::swap(order[i - 1], order[rng.below(i)]);
  auto room = static_cast<std::int64_t>(fraction * static_cast<double>(total));
  bool any = false;
  for (const std::size_t d : order) {
    const std::int64_t length = (d + 1 < n ? starts[d + 1] : total) - starts[d];
    if (length > room) continue;
    room -= length;
    out[d] = any = true;
  }
  return any ? out : std::vector<bool>();
}

}  // namespace

TokenSet tokenize_corpus(Corpus& corpus, const Tokenizer& tokenizer, double validation_fraction, std::uint64_t seed,
                         const std::function<void(std::uint64_t bytes)>& progress) {
  if (!(validation_fraction >= 0.0 && validation_fraction < 1.0))
    fail("the validation fraction is {}, expected 0 or more and below 1", validation_fraction);
  TokenSet out;
  const TokenId separator = token_for(tokenizer, TokenRole::end_of_text);
  std::vector<std::string> documents;
  std::string document;
  for (bool more = true; more;) {
    documents.clear();
    for (std::size_t bytes = 0; bytes < kEncodedTogether && (more = corpus.next(document)); bytes += document.size())
      documents.push_back(document);
    for (const auto& ids : encode_documents(documents, tokenizer)) {
      out.train_documents.push_back(static_cast<std::int64_t>(out.train.size()));
      out.train.insert(out.train.end(), ids.begin(), ids.end());
      if (separator >= 0) out.train.push_back(separator);
    }
    for (const auto& text : documents) out.source_bytes += text.size();
    if (progress) progress(out.source_bytes);
  }
  if (validation_fraction == 0.0) return out;

  const auto total = static_cast<std::int64_t>(out.train.size());
  const std::vector<std::int64_t> starts = std::move(out.train_documents);
  out.train_documents.clear();
  const std::size_t n = starts.size();
  const auto end_of = [&](std::size_t d) { return d + 1 < n ? starts[d + 1] : total; };
  const std::vector<bool> validation = chosen(starts, total, validation_fraction, seed);
  // One document, or all of them large: the end of the longest one is cut off instead.
  std::size_t longest = 0;
  for (std::size_t d = 0; d < n; ++d) {
    if (end_of(d) - starts[d] > end_of(longest) - starts[longest]) longest = d;
  }
  std::vector<TokenId> train;
  train.reserve(out.train.size());
  const auto take = [&](std::int64_t begin, std::int64_t end, std::vector<TokenId>& to, std::vector<std::int64_t>& documents_of) {
    documents_of.push_back(static_cast<std::int64_t>(to.size()));
    to.insert(to.end(), out.train.begin() + begin, out.train.begin() + end);
  };
  for (std::size_t d = 0; d < n; ++d) {
    if (!validation.empty()) {
      if (validation[d]) take(starts[d], end_of(d), out.validation, out.validation_documents);
      else take(starts[d], end_of(d), train, out.train_documents);
      continue;
    }
    std::int64_t cut = end_of(d);
    if (d == longest)
      cut = std::max(starts[d], cut - static_cast<std::int64_t>(validation_fraction * static_cast<double>(total)));
    if (cut > starts[d]) take(starts[d], cut, train, out.train_documents);
    if (cut < end_of(d)) take(cut, end_of(d), out.validation, out.validation_documents);
  }
  out.train = std::move(train);
  return out;
}

}  // namespace rhetor
