#include <algorithm>

#include "base/error.h"
#include "base/rng.h"
#include "data/batches.h"
#include "data/permutation.h"
#include "text/token_roles.h"

namespace rhetor {
namespace {

constexpr std::uint64_t kRowSalt = 0x6d6c6d726f7773;
constexpr double kTargetFraction = 0.15;
constexpr float kShortFraction = 0.1f;  // of the rows are shorter, as in fine-tuning (Devlin et al. 2019, appendix A.2)

std::size_t wanted_targets(std::size_t tokens) {
  return std::max<std::size_t>(1, static_cast<std::size_t>(kTargetFraction * static_cast<double>(tokens) + 0.5));
}

// A special token by our name or another's.
TokenId named(const Tokenizer& tokenizer, const char* ours, const char* theirs) {
  const TokenId id = token_named(tokenizer, ours);
  if (id < 0) fail("the tokenizer has no special token {} (nor {}), which masked-language training needs; train one with it", ours, theirs);
  return id;
}

}  // namespace

// A half-open range of tokens of one document, without its closing separator.
struct MlmRows::Range {
  std::int64_t begin, end;
  std::int64_t size() const { return end - begin; }
};

MlmRows::MlmRows(TokenView tokens, const Tokenizer& tokenizer, std::int64_t seq, std::uint64_t seed, MlmOptions options)
    : tokens_(std::move(tokens)), tokenizer_(tokenizer), seq_(seq), budget_(seq - (options.pairs ? 3 : 2)), seed_(seed), options_(options),
      ids_{named(tokenizer, "<|cls|>", "[CLS]"), named(tokenizer, "<|sep|>", "[SEP]"), named(tokenizer, "<|mask|>", "[MASK]"),
           named(tokenizer, "<|pad|>", "[PAD]")} {
  if (seq < 8) fail("the sequence length is {}; masked-language training needs at least 8", seq);
  if (tokens_.tokens() == 0) fail("the text has no tokens; masked-language training needs some");
  windows_ = std::max<std::uint64_t>(1, static_cast<std::uint64_t>(tokens_.tokens() / budget_));
  if (options.whole_words) words_.emplace(tokenizer);
}

void MlmRows::make(std::uint64_t number, std::int64_t row, MlmBatch& out, std::int64_t room) const {
  Rng rng(seed_ ^ kRowSalt, number);
  const std::uint64_t epoch = number / windows_;
  const std::uint64_t window = permuted(number % windows_, windows_, seed_, 2 * epoch);
  const auto total = static_cast<std::uint64_t>(tokens_.tokens());
  const std::uint64_t shift = Rng(seed_, 2 * epoch + 1).below(total);
  const auto start = static_cast<std::int64_t>((shift + window * static_cast<std::uint64_t>(budget_)) % total);

  std::int64_t budget = budget_;   // [CLS] a [SEP] b [SEP]
  if (rng.uniform() < kShortFraction) budget = 2 + static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(budget - 1)));
  if (room > 0) budget = std::min(budget, room - (seq_ - budget_));
  const Range document = usable(start);
  // Near its end a document gives less than the budget; then the row starts earlier.
  const std::int64_t length = std::min(budget, document.size());
  const std::int64_t begin = std::clamp(start, document.begin, document.end - length);
  if (!options_.pairs) {
    fill({begin, begin + length}, {0, 0}, -100, rng, row, out);
    return;
  }
  const std::int64_t first = 1 + static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(length - 1)));
  const Range a{begin, begin + first};
  Range b{a.end, begin + length};
  const bool other = (rng.u32() & 1) != 0;
  if (other) b = random_segment(rng, budget - first, document, b);
  fill(a, b, other ? 1 : 0, rng, row, out);
}

MlmRows::Range MlmRows::content(std::int64_t document) const {
  Range r{tokens_.begin_of(document), tokens_.end_of(document)};
  while (r.size() > 0 && tokenizer_.is_special(tokens_[r.end - 1])) --r.end;
  return r;
}

// The document around a position, or the next one that holds two segments.
MlmRows::Range MlmRows::usable(std::int64_t position) const {
  const std::int64_t at = tokens_.document_at(position), count = tokens_.documents();
  for (std::int64_t i = 0; i < count; ++i) {
    const Range r = content((at + i) % count);
    if (r.size() >= 2) return r;
  }
  fail("no document has two tokens; masked-language training needs longer text");
}

// A segment that does not continue the first one: of another document if there is one, else from elsewhere in this one.
MlmRows::Range MlmRows::random_segment(Rng& rng, std::int64_t longest, Range document, Range follower) const {
  for (int attempt = 0; attempt < 8; ++attempt) {
    const auto at = static_cast<std::int64_t>(rng.below(static_cast<std::uint64_t>(tokens_.tokens())));
    const Range from = content(tokens_.document_at(at));
    if (from.size() < 1 || (tokens_.documents() > 1 && from.begin == document.begin && attempt < 6)) continue;
    const std::int64_t begin = std::clamp(at, from.begin, std::max(from.begin, from.end - longest));
    if (begin != follower.begin) return {begin, std::min(from.end, begin + longest)};
  }
  // A text of a few tokens: what is not the follower is its tail, or the beginning of the document.
  if (follower.size() > 1) return {follower.begin + 1, follower.end};
  return {document.begin, document.begin + 1};
}

void MlmRows::fill(Range a, Range b, int label, Rng& rng, std::int64_t row, MlmBatch& out) const {
  const auto at = static_cast<std::size_t>(row * seq_), size = static_cast<std::size_t>(seq_);
  auto inputs = out.inputs.data<std::int32_t>().subspan(at, size);
  auto segments = out.segments.data<std::int32_t>().subspan(at, size);
  auto targets = out.targets.data<std::int32_t>().subspan(at, size);
  std::fill(inputs.begin(), inputs.end(), ids_.pad);
  std::fill(segments.begin(), segments.end(), 0);
  std::fill(targets.begin(), targets.end(), -100);
  std::size_t n = 0;
  inputs[n++] = ids_.cls;
  const auto put = [&](Range range, int segment) {
    const std::size_t first = n;
    tokens_.copy(range.begin, range.size(), inputs.data() + n);
    n += static_cast<std::size_t>(range.size());
    inputs[n++] = ids_.sep;
    std::fill(segments.begin() + static_cast<std::ptrdiff_t>(first), segments.begin() + static_cast<std::ptrdiff_t>(n), segment);
  };
  put(a, 0);
  if (options_.pairs) put(b, 1);
  mask(inputs.first(n), targets.first(n), rng);
  out.lengths.data<std::int32_t>()[static_cast<std::size_t>(row)] = static_cast<std::int32_t>(n);
  out.next_sentence.data<std::int32_t>()[static_cast<std::size_t>(row)] = label;
}

void MlmRows::mask(std::span<std::int32_t> inputs, std::span<std::int32_t> targets, Rng& rng) const {
  // Units are masked together: single tokens, or the tokens of a word, which follow each other.
  struct Unit { std::size_t begin, end; };
  std::vector<Unit> units;
  std::size_t tokens = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (tokenizer_.is_special(inputs[i])) continue;
    ++tokens;
    if (words_ && !units.empty() && units.back().end == i && words_->continues(inputs[i - 1], inputs[i])) units.back().end = i + 1;
    else units.push_back({i, i + 1});
  }
  if (units.empty()) return;
  const std::size_t wanted = wanted_targets(tokens);
  // No row has more targets than a full one is due: of a word longer than that the beginning is taken.
  const auto most = static_cast<std::size_t>(most_predictions(seq_, options_.pairs));
  for (Unit& unit : units) unit.end = std::min(unit.end, unit.begin + most);
  std::size_t masked = 0;
  for (std::size_t i = 0; i < units.size() && masked < wanted; ++i) {  // the beginning of a Fisher-Yates shuffle: a random subset
    std::swap(units[i], units[i + rng.below(units.size() - i)]);
    const Unit unit = units[i];
    // A word that would pass the share is left out, as BERT's own code does, unless it is the first.
    if (masked > 0 && masked + (unit.end - unit.begin) > wanted) continue;
    masked += unit.end - unit.begin;
    const float choice = rng.uniform();
    for (std::size_t k = unit.begin; k < unit.end; ++k) {
      targets[k] = inputs[k];
      if (choice < 0.8f) inputs[k] = ids_.mask;
      else if (choice < 0.9f) inputs[k] = random_token(rng, inputs[k]);
    }
  }
}

TokenId MlmRows::random_token(Rng& rng, TokenId otherwise) const {
  for (int attempt = 0; attempt < 16; ++attempt) {
    const auto id = static_cast<TokenId>(rng.below(static_cast<std::uint64_t>(tokenizer_.vocab_size())));
    if (!tokenizer_.is_special(id)) return id;
  }
  return otherwise;
}

std::int64_t most_predictions(std::int64_t seq, bool pairs) {
  // A short row's first word may be longer than its share.
  constexpr std::size_t kLongWord = 16;
  return static_cast<std::int64_t>(std::max(kLongWord, wanted_targets(static_cast<std::size_t>(std::max<std::int64_t>(1, seq - (pairs ? 3 : 2))))));
}

MaskedPlaces masked_places(const Tensor& targets, std::int64_t predictions) {
  const std::int64_t rows = targets.shape()[0], seq = targets.shape()[1];
  const Type type{DType::i32, Shape{rows, predictions}};
  MaskedPlaces out{Tensor(type), Tensor::uninitialized(type)};
  const auto from = targets.data<std::int32_t>();
  auto places = out.positions.data<std::int32_t>(), values = out.targets.data<std::int32_t>();
  std::fill(values.begin(), values.end(), -100);
  for (std::int64_t row = 0; row < rows; ++row) {
    std::int64_t n = 0;
    for (std::int64_t i = 0; i < seq; ++i) {
      const std::int32_t target = from[static_cast<std::size_t>(row * seq + i)];
      if (target == -100) continue;
      check(n < predictions, "a row has no more targets than most_predictions()");
      const auto at = static_cast<std::size_t>(row * predictions + n++);
      places[at] = static_cast<std::int32_t>(i);
      values[at] = target;
    }
  }
  return out;
}

MlmBatch empty_mlm_batch(std::int64_t batch, std::int64_t seq) {
  const Type matrix{DType::i32, Shape{batch, seq}}, column{DType::i32, Shape{batch}};
  return {Tensor::uninitialized(matrix), Tensor::uninitialized(matrix), Tensor::uninitialized(column), Tensor::uninitialized(matrix),
          Tensor::uninitialized(column)};
}

MlmBatch mlm_batch(const std::vector<TokenId>& tokens, const std::vector<std::int64_t>& documents, const Tokenizer& tokenizer,
                   std::int64_t batch, std::int64_t seq, std::uint64_t seed, std::uint64_t index, int rank, int ranks) {
  check(batch > 0 && rank >= 0 && rank < ranks, "mlm_batch: batch, rank or ranks out of range");
  const MlmRows rows(TokenView(tokens, documents), tokenizer, seq, seed);
  MlmBatch out = empty_mlm_batch(batch, seq);
  const std::uint64_t first = (index * static_cast<std::uint64_t>(ranks) + static_cast<std::uint64_t>(rank)) * static_cast<std::uint64_t>(batch);
  for (std::int64_t row = 0; row < batch; ++row) rows.make(first + static_cast<std::uint64_t>(row), row, out);
  return out;
}

}  // namespace rhetor
