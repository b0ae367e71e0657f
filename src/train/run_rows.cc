// Which tokens stand in which row of a run.
#include <algorithm>

#include "base/error.h"
#include "text/token_roles.h"
#include "train/run_data.h"

namespace rhetor {
namespace {

NamedTensors as_inputs(LmBatch batch) { return {{"tokens", std::move(batch.inputs)}, {"targets", std::move(batch.targets)}}; }

NamedTensors as_inputs(MlmBatch batch) {
  return {{"tokens", std::move(batch.inputs)},
          {"segments", std::move(batch.segments)},
          {"lengths", std::move(batch.lengths)},
          {"targets", std::move(batch.targets)},
          {"next_sentence", std::move(batch.next_sentence)}};
}

void check_keys(const Recipe& recipe, bool bert) {
  if (bert && recipe.packing != "stream") fail("data.packing is \"{}\", but a bert model reads spans of documents; leave the key out", recipe.packing);
  if (!bert && recipe.masking != "tokens") fail("data.masking is \"{}\", but only bert models are trained on masked tokens; leave the key out", recipe.masking);
  if (!bert && recipe.pairs != "next") fail("data.pairs is \"{}\", but only bert models are trained on pairs; leave the key out", recipe.pairs);
}

}  // namespace

RunRows::RunRows(const RunData& data, const Recipe& recipe, bool bert, std::int64_t seq, Part part, std::uint64_t seed) : bert_(bert), seq_(seq) {
  check_keys(recipe, bert);
  pad_ = std::max<TokenId>(0, token_for(*data.tokenizer, TokenRole::pad));
  std::vector<double> weights;
  for (std::size_t s = 0; s < data.sources.size(); ++s) {
    const RunSource& from = data.sources[s];
    Source source{part == Part::train ? from.train : from.validation, seed + 0x9E3779B97F4A7C15u * s, nullptr, nullptr};
    // A short text may be part of a blend; alone, or for validation, it must fill a sequence.
    const bool whole = part == Part::validation || data.sources.size() == 1;
    if (source.tokens.tokens() < (whole ? seq + 1 : 2)) continue;
    if (bert) {
      source.masked = std::make_unique<MlmRows>(source.tokens, *data.tokenizer, seq, source.seed,
                                                MlmOptions{.pairs = recipe.pairs == "next", .whole_words = recipe.masking == "words"});
    } else if (recipe.packing != "stream") {
      source.packing = std::make_unique<Packing>(source.tokens, seq, recipe.packing == "single");
    }
    sources_.push_back(std::move(source));
    weights.push_back(from.weight);
  }
  if (!sources_.empty()) blend_ = std::make_unique<Blend>(weights);
}

std::int64_t RunRows::tokens() const {
  std::int64_t sum = 0;
  for (const Source& source : sources_) sum += source.packing ? source.packing->sequences() * seq_ : source.tokens.tokens();
  return sum;
}

NamedTensors RunRows::batch(std::int64_t rows, std::uint64_t index) const {
  MlmBatch masked;
  LmBatch lm;
  if (bert_) masked = empty_mlm_batch(rows, seq_);
  else lm = empty_lm_batch(rows, seq_);
  const auto width = static_cast<std::size_t>(seq_);
  for (std::int64_t row = 0; row < rows; ++row) {
    const Blend::Pick pick = blend_->at(index * static_cast<std::uint64_t>(rows) + static_cast<std::uint64_t>(row));
    const Source& source = sources_[static_cast<std::size_t>(pick.source)];
    if (bert_) {
      source.masked->make(pick.index, row, masked);
      continue;
    }
    const auto inputs = lm.inputs.data<std::int32_t>().subspan(static_cast<std::size_t>(row) * width, width);
    const auto targets = lm.targets.data<std::int32_t>().subspan(static_cast<std::size_t>(row) * width, width);
    if (source.packing) packed_row(source.tokens, *source.packing, pad_, source.seed, pick.index, inputs, targets);
    else lm_row(source.tokens, seq_, source.seed, pick.index, inputs, targets);
  }
  return bert_ ? as_inputs(std::move(masked)) : as_inputs(std::move(lm));
}

}  // namespace rhetor
