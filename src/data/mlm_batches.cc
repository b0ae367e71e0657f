#include <algorithm>

#include "base/error.h"
#include "base/rng.h"
#include "data/batches.h"
#include "data/permutation.h"

namespace rhetor {
namespace {

constexpr std::uint64_t kRowSalt = 0x6d6c6d726f7773;
constexpr double kTargetFraction = 0.15;
constexpr float kShortFraction = 0.1f;  // of the rows are shorter, as in fine-tuning (Devlin et al. 2019, appendix A.2)

struct SpecialIds { TokenId cls, sep, mask, pad; };

SpecialIds special_ids(const Tokenizer& tokenizer) {
  const auto find = [&](const char* ours, const char* theirs) {
    const TokenId id = tokenizer.special(ours) >= 0 ? tokenizer.special(ours) : tokenizer.special(theirs);
    if (id < 0) fail("the tokenizer has no special token {} (nor {}), which masked-language training needs; train one with it", ours, theirs);
    return id;
  };
  return {find("<|cls|>", "[CLS]"), find("<|sep|>", "[SEP]"), find("<|mask|>", "[MASK]"), find("<|pad|>", "[PAD]")};
}

// A half-open range of tokens of one document, without its closing separator.
struct Range {
  std::int64_t begin, end;
  std::int64_t size() const { return end - begin; }
};

class RowMaker {
 public:
  RowMaker(const std::vector<TokenId>& tokens, const std::vector<std::int64_t>& documents, const Tokenizer& tokenizer, std::int64_t seq,
           std::uint64_t seed)
      : tokens_(tokens), documents_(documents), tokenizer_(tokenizer), ids_(special_ids(tokenizer)), seq_(seq), seed_(seed),
        windows_(std::max<std::uint64_t>(1, tokens.size() / static_cast<std::uint64_t>(seq - 3))) {}

  void make(std::uint64_t number, std::int64_t row, MlmBatch& out) const {
    Rng rng(seed_ ^ kRowSalt, number);
    const std::uint64_t epoch = number / windows_;
    const std::uint64_t window = permuted(number % windows_, windows_, seed_, 2 * epoch);
    const std::uint64_t shift = Rng(seed_, 2 * epoch + 1).below(tokens_.size());
    const auto start = static_cast<std::int64_t>((shift + window * static_cast<std::uint64_t>(seq_ - 3)) % tokens_.size());

    std::int64_t budget = seq_ - 3;  // [CLS] a [SEP] b [SEP]
    if (rng.uniform() < kShortFraction) budget = 2 + static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(budget - 1)));
    const Range document = usable(start);
    // Near its end a document gives less than the budget; then the row starts earlier.
    const std::int64_t length = std::min(budget, document.size());
    const std::int64_t begin = std::clamp(start, document.begin, document.end - length);
    const std::int64_t first = 1 + static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(length - 1)));
    const Range a{begin, begin + first};
    Range b{a.end, begin + length};
    const bool other = (rng.u32() & 1) != 0;
    if (other) b = random_segment(rng, budget - first, document, b);
    fill(a, b, other, rng, row, out);
  }

 private:
  Range content(std::size_t d) const {
    Range r{documents_[d], d + 1 < documents_.size() ? documents_[d + 1] : static_cast<std::int64_t>(tokens_.size())};
    while (r.size() > 0 && tokenizer_.is_special(tokens_[static_cast<std::size_t>(r.end - 1)])) --r.end;
    return r;
  }

  std::size_t document_at(std::int64_t position) const {
    const auto after = std::upper_bound(documents_.begin(), documents_.end(), position);
    return after == documents_.begin() ? 0 : static_cast<std::size_t>(after - documents_.begin()) - 1;
  }

  // The document around a position, or the next one that holds two segments.
  Range usable(std::int64_t position) const {
    const std::size_t at = document_at(position);
    for (std::size_t i = 0; i < documents_.size(); ++i) {
      const Range r = content((at + i) % documents_.size());
      if (r.size() >= 2) return r;
    }
    fail("no document has two tokens; masked-language training needs longer text");
  }

  // A segment that does not continue the first one: of another document if there is one, else from elsewhere in this one.
  Range random_segment(Rng& rng, std::int64_t longest, Range document, Range follower) const {
    for (int attempt = 0; attempt < 8; ++attempt) {
      const auto at = static_cast<std::int64_t>(rng.below(tokens_.size()));
      const Range from = content(document_at(at));
      if (from.size() < 1 || (documents_.size() > 1 && from.begin == document.begin && attempt < 6)) continue;
      const std::int64_t begin = std::clamp(at, from.begin, std::max(from.begin, from.end - longest));
      if (begin != follower.begin) return {begin, std::min(from.end, begin + longest)};
    }
    // A text of a few tokens: what is not the follower is its tail, or the beginning of the document.
    if (follower.size() > 1) return {follower.begin + 1, follower.end};
    return {document.begin, document.begin + 1};
  }

  void fill(Range a, Range b, bool other, Rng& rng, std::int64_t row, MlmBatch& out) const {
    const auto at = static_cast<std::size_t>(row * seq_), size = static_cast<std::size_t>(seq_);
    auto inputs = out.inputs.data<std::int32_t>().subspan(at, size);
    auto segments = out.segments.data<std::int32_t>().subspan(at, size);
    auto targets = out.targets.data<std::int32_t>().subspan(at, size);
    std::fill(inputs.begin(), inputs.end(), ids_.pad);
    std::fill(segments.begin(), segments.end(), 0);
    std::fill(targets.begin(), targets.end(), -100);
    std::size_t n = 0;
    const auto put = [&](TokenId id, int segment) {
      inputs[n] = id;
      segments[n++] = segment;
    };
    put(ids_.cls, 0);
    for (std::int64_t i = a.begin; i < a.end; ++i) put(tokens_[static_cast<std::size_t>(i)], 0);
    put(ids_.sep, 0);
    for (std::int64_t i = b.begin; i < b.end; ++i) put(tokens_[static_cast<std::size_t>(i)], 1);
    put(ids_.sep, 1);
    mask(inputs.first(n), targets.first(n), rng);
    out.lengths.data<std::int32_t>()[static_cast<std::size_t>(row)] = static_cast<std::int32_t>(n);
    out.next_sentence.data<std::int32_t>()[static_cast<std::size_t>(row)] = other ? 1 : 0;
  }

  void mask(std::span<std::int32_t> inputs, std::span<std::int32_t> targets, Rng& rng) const {
    std::vector<std::size_t> places;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      if (!tokenizer_.is_special(inputs[i])) places.push_back(i);
    }
    if (places.empty()) return;
    const auto count = std::max<std::size_t>(1, static_cast<std::size_t>(kTargetFraction * static_cast<double>(places.size()) + 0.5));
    for (std::size_t i = 0; i < count; ++i) {  // the beginning of a Fisher-Yates shuffle: a random subset
      std::swap(places[i], places[i + rng.below(places.size() - i)]);
      auto& input = inputs[places[i]];
      targets[places[i]] = input;
      const float choice = rng.uniform();
      if (choice < 0.8f) input = ids_.mask;
      else if (choice < 0.9f) input = random_token(rng, input);
    }
  }

  TokenId random_token(Rng& rng, TokenId otherwise) const {
    for (int attempt = 0; attempt < 16; ++attempt) {
      const auto id = static_cast<TokenId>(rng.below(static_cast<std::uint64_t>(tokenizer_.vocab_size())));
      if (!tokenizer_.is_special(id)) return id;
    }
    return otherwise;
  }

  const std::vector<TokenId>& tokens_;
  const std::vector<std::int64_t>& documents_;
  const Tokenizer& tokenizer_;
  SpecialIds ids_;
  std::int64_t seq_;
  std::uint64_t seed_, windows_;
};

}  // namespace

MlmBatch mlm_batch(const std::vector<TokenId>& tokens, const std::vector<std::int64_t>& documents, const Tokenizer& tokenizer,
                   std::int64_t batch, std::int64_t seq, std::uint64_t seed, std::uint64_t index, int rank, int ranks) {
  check(batch > 0 && rank >= 0 && rank < ranks, "mlm_batch: batch, rank or ranks out of range");
  if (seq < 8) fail("the sequence length is {}; masked-language training needs at least 8", seq);
  if (tokens.empty() || documents.empty()) fail("the text has no tokens; masked-language training needs some");
  const Type matrix{DType::i32, Shape{batch, seq}}, column{DType::i32, Shape{batch}};
  MlmBatch out{Tensor::uninitialized(matrix), Tensor::uninitialized(matrix), Tensor::uninitialized(column), Tensor::uninitialized(matrix),
               Tensor::uninitialized(column)};
  const RowMaker rows(tokens, documents, tokenizer, seq, seed);
  const std::uint64_t first = (index * static_cast<std::uint64_t>(ranks) + static_cast<std::uint64_t>(rank)) * static_cast<std::uint64_t>(batch);
  for (std::int64_t row = 0; row < batch; ++row) rows.make(first + static_cast<std::uint64_t>(row), row, out);
  return out;
}

}  // namespace rhetor
