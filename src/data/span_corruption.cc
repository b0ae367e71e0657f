#include "data/span_corruption.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "data/permutation.h"
#include "text/token_roles.h"

namespace rhetor {
namespace {

constexpr std::uint64_t kSpanSalt = 0x7370616e73;

SpanLayout layout_of(std::int64_t text, const SpanOptions& options) {
  const auto noise = std::clamp<std::int64_t>(std::llround(static_cast<double>(text) * options.share), 1, text - 1);
  const std::int64_t spans = std::clamp<std::int64_t>(std::llround(static_cast<double>(noise) / options.mean), 1, std::min(noise, text - noise));
  return {.text = text, .noise = noise, .spans = spans};
}

// `total` cut into `parts` positive lengths, every such cut equally likely: parts - 1 of the total - 1 places between items.
std::vector<std::int64_t> random_parts(Rng& rng, std::int64_t total, std::int64_t parts) {
  std::vector<std::int64_t> out;
  std::int64_t begin = 0, cuts = parts - 1;
  for (std::int64_t place = 1; place < total && cuts > 0; ++place) {
    // Knuth's selection sampling: each place with the chance that is left for it.
    if (rng.below(static_cast<std::uint64_t>(total - place)) >= static_cast<std::uint64_t>(cuts)) continue;
    out.push_back(place - begin);
    begin = place;
    --cuts;
  }
  out.push_back(total - begin);
  return out;
}

}  // namespace

SpanLayout span_layout(std::int64_t seq, const SpanOptions& options) {
  if (seq < 8) fail("the sequence length is {}; training on spans needs at least 8", seq);
  std::int64_t text = 2;
  while (layout_of(text + 1, options).input() <= seq) ++text;
  return layout_of(text, options);
}

std::vector<TokenId> sentinel_ids(const Tokenizer& tokenizer) {
  std::vector<TokenId> out;
  for (std::int64_t i = 0; i < kSentinels; ++i) {
    const TokenId id = tokenizer.special(fmt::format("<extra_id_{}>", i));
    if (id < 0) break;
    out.push_back(id);
  }
  if (!out.empty()) return out;
  for (std::int64_t i = 0; i < kSentinels; ++i) out.push_back(static_cast<TokenId>(tokenizer.vocab_size() + i));
  return out;
}

std::int64_t vocabulary_with_sentinels(const Tokenizer& tokenizer) {
  std::int64_t size = tokenizer.vocab_size();
  for (const TokenId id : sentinel_ids(tokenizer)) size = std::max<std::int64_t>(size, id + 1);
  return size;
}

TokenId decoder_start(const Tokenizer& tokenizer) {
  const TokenId pad = token_for(tokenizer, TokenRole::pad);
  return pad >= 0 ? pad : token_for(tokenizer, TokenRole::end_of_text);
}

SpanRows::SpanRows(TokenView tokens, const Tokenizer& tokenizer, std::int64_t seq, std::uint64_t seed, const SpanOptions& options)
    : tokens_(std::move(tokens)), seq_(seq), seed_(seed), layout_(span_layout(seq, options)), sentinels_(sentinel_ids(tokenizer)),
      end_(token_for(tokenizer, TokenRole::end_of_text)), start_(decoder_start(tokenizer)) {
  if (end_ < 0) fail("the tokenizer has no end-of-text token (<|endoftext|>, </s>), which training on spans needs; train one with it");
  if (tokens_.tokens() == 0) fail("the text has no tokens; training on spans needs some");
  if (layout_.spans > static_cast<std::int64_t>(sentinels_.size()))
    fail("a sequence of {} tokens has {} spans, but there are {} sentinels; shorten train.seq or lengthen data.span", seq, layout_.spans,
         sentinels_.size());
}

SpanBatch SpanRows::empty(std::int64_t rows) const {
  const Type in{DType::i32, Shape{rows, seq_}}, out{DType::i32, Shape{rows, layout_.output()}};
  return {Tensor(in), Tensor(out), Tensor(out), Tensor(DType::i32, Shape{rows})};
}

void SpanRows::make(std::uint64_t number, std::int64_t row, SpanBatch& out) const {
  // The text is a ring of windows, as in lm_row().
  const auto total = static_cast<std::uint64_t>(tokens_.tokens()), step = static_cast<std::uint64_t>(layout_.text);
  const std::uint64_t windows = std::max<std::uint64_t>(1, total / step), epoch = number / windows;
  const std::uint64_t window = permuted(number % windows, windows, seed_, 2 * epoch);
  const std::uint64_t shift = Rng(seed_, 2 * epoch + 1).below(total);
  std::vector<TokenId> text(static_cast<std::size_t>(layout_.text));
  tokens_.copy(static_cast<std::int64_t>((shift + window * step) % total), layout_.text, text.data());

  Rng rng(seed_ ^ kSpanSalt, number);
  const std::vector<std::int64_t> noise = random_parts(rng, layout_.noise, layout_.spans);
  const std::vector<std::int64_t> kept = random_parts(rng, layout_.text - layout_.noise, layout_.spans);
  const auto u = static_cast<std::size_t>(layout_.output()), r = static_cast<std::size_t>(row), s = static_cast<std::size_t>(seq_);
  auto inputs = out.inputs.data<std::int32_t>().subspan(r * s, s);
  auto targets = out.targets.data<std::int32_t>().subspan(r * u, u), before = out.decoder_inputs.data<std::int32_t>().subspan(r * u, u);
  std::size_t at = 0, in = 0, gives = 0;
  for (std::size_t i = 0; i < noise.size(); ++i) {
    for (std::int64_t k = 0; k < kept[i]; ++k) inputs[in++] = text[at++];
    inputs[in++] = targets[gives++] = sentinels_[i];
    for (std::int64_t k = 0; k < noise[i]; ++k) targets[gives++] = text[at++];
  }
  inputs[in++] = targets[gives++] = end_;
  out.lengths.data<std::int32_t>()[r] = static_cast<std::int32_t>(in);
  std::fill(inputs.begin() + static_cast<std::ptrdiff_t>(in), inputs.end(), start_);
  before[0] = start_;
  std::copy(targets.begin(), targets.end() - 1, before.begin() + 1);
}

}  // namespace rhetor
