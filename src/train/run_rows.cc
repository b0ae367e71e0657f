// Which tokens stand in which row of a run.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "text/token_roles.h"
#include "train/run_data.h"

namespace rhetor {
namespace {

NamedTensors as_inputs(LmBatch batch) { return {{"tokens", std::move(batch.inputs)}, {"targets", std::move(batch.targets)}}; }

NamedTensors as_inputs(MlmBatch batch, std::int64_t predictions) {
  MaskedPlaces places = masked_places(batch.targets, predictions);
  return {{"tokens", std::move(batch.inputs)},
          {"segments", std::move(batch.segments)},
          {"lengths", std::move(batch.lengths)},
          {"masked_positions", std::move(places.positions)},
          {"targets", std::move(places.targets)},
          {"next_sentence", std::move(batch.next_sentence)}};
}

NamedTensors as_inputs(SpanBatch batch) {
  return {{"tokens", std::move(batch.inputs)},
          {"lengths", std::move(batch.lengths)},
          {"decoder_tokens", std::move(batch.decoder_inputs)},
          {"targets", std::move(batch.targets)}};
}

NamedTensors as_inputs(FlatMlmBatch batch) {
  return {{"tokens", std::move(batch.tokens)},
          {"segments", std::move(batch.segments)},
          {"positions", std::move(batch.positions)},
          {"token_places", std::move(batch.token_places)},
          {"place_tokens", std::move(batch.place_tokens)},
          {"lengths", std::move(batch.lengths)},
          {"first_tokens", std::move(batch.first_tokens)},
          {"masked_positions", std::move(batch.masked_positions)},
          {"targets", std::move(batch.targets)},
          {"next_sentence", std::move(batch.next_sentence)}};
}

void check_keys(const Recipe& recipe, Objective objective) {
  const bool bert = objective == Objective::masked;
  if (!bert && recipe.packing == "unpadded")
    fail("data.packing is \"unpadded\", but only the rows of bert models are padded; leave the key out");
  if (objective != Objective::next && recipe.packing != "stream" && recipe.packing != "unpadded")
    fail("data.packing is \"{}\", but a {} model reads {}; leave the key out", recipe.packing, bert ? "bert" : "t5",
         bert ? "spans of documents" : "windows of the text");
  if (!bert && recipe.masking != "tokens")
    fail("data.masking is \"{}\", but only bert models are trained on masked tokens; leave the key out", recipe.masking);
  if (!bert && recipe.pairs != "next")
    fail("data.pairs is \"{}\", but only bert models are trained on pairs; leave the key out", recipe.pairs);
}

}  // namespace

Objective objective_of(const ModelConfig& config) {
  return config.family == "bert" ? Objective::masked : config.family == "t5" ? Objective::spans : Objective::next;
}

RunRows::RunRows(const RunData& data, const Recipe& recipe, Objective objective, std::int64_t seq, Part part, std::uint64_t seed)
    : objective_(objective), seq_(seq), predictions_(most_predictions(seq, recipe.pairs == "next")) {
  check_keys(recipe, objective);
  unpadded_ = recipe.packing == "unpadded";
  pad_ = std::max<TokenId>(0, token_for(*data.tokenizer, TokenRole::pad));
  std::vector<double> weights;
  for (std::size_t s = 0; s < data.sources.size(); ++s) {
    const RunSource& from = data.sources[s];
    Source source{part == Part::train ? from.train : from.validation, seed + 0x9E3779B97F4A7C15u * s, nullptr, nullptr, nullptr};
    // A short text may be part of a blend; alone, or for validation, it must fill a sequence.
    const bool whole = part == Part::validation || data.sources.size() == 1;
    if (source.tokens.tokens() < (whole ? seq + 1 : 2)) continue;
    if (objective == Objective::masked) {
      source.masked =
          std::make_unique<MlmRows>(source.tokens, *data.tokenizer, seq, source.seed,
                                    MlmOptions{.pairs = recipe.pairs == "next", .whole_words = recipe.masking == "words"});
    } else if (objective == Objective::spans) {
      source.spans = std::make_unique<SpanRows>(source.tokens, *data.tokenizer, seq, source.seed,
                                                SpanOptions{.share = recipe.corruption, .mean = recipe.span});
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

double RunRows::mean_length() const {
  constexpr std::uint64_t kSome = 512;
  MlmBatch one = empty_mlm_batch(1, seq_);
  double sum = 0;
  for (std::uint64_t i = 0; i < kSome; ++i) {
    const Blend::Pick pick = blend_->at(i);
    sources_[static_cast<std::size_t>(pick.source)].masked->make(pick.index, 0, one);
    sum += one.lengths.at(0);
  }
  return sum / static_cast<double>(kSome);
}

std::int64_t unpadded_tokens(const RunData& data, const Recipe& recipe, Objective objective, std::int64_t texts,
                             std::int64_t seq) {
  if (recipe.packing != "unpadded") return 0;
  const RunRows rows(data, recipe, objective, seq, RunRows::Part::train, recipe.seed);
  const double most = static_cast<double>(texts * seq), mean = rows.mean_length() * static_cast<double>(texts);
  // Lengths vary: of a few texts the sum does more.
  const double full = mean * (1.0 - 0.25 / std::sqrt(static_cast<double>(texts)));
  return std::max<std::int64_t>(seq, static_cast<std::int64_t>(std::min(most, full)) / 16 * 16);
}

NamedTensors RunRows::batch(std::int64_t rows, std::uint64_t index, std::int64_t parts) const {
  if (flat_tokens_ > 0) {
    const auto make = [&](std::int64_t text, std::int64_t row, std::int64_t room, MlmBatch& out) {
      const Blend::Pick pick = blend_->at(index * static_cast<std::uint64_t>(rows) + static_cast<std::uint64_t>(text));
      sources_[static_cast<std::size_t>(pick.source)].masked->make(pick.index, row, out, room);
    };
    return as_inputs(flat_mlm_batch({.texts = rows / parts, .seq = seq_, .tokens = flat_tokens_}, parts, pad_, make));
  }
  MlmBatch masked;
  SpanBatch spans;
  LmBatch lm;
  if (objective_ == Objective::masked) masked = empty_mlm_batch(rows, seq_);
  else if (objective_ == Objective::spans) spans = sources_[0].spans->empty(rows);
  else lm = empty_lm_batch(rows, seq_);
  const auto width = static_cast<std::size_t>(seq_);
  for (std::int64_t row = 0; row < rows; ++row) {
    const Blend::Pick pick = blend_->at(index * static_cast<std::uint64_t>(rows) + static_cast<std::uint64_t>(row));
    const Source& source = sources_[static_cast<std::size_t>(pick.source)];
    if (source.masked) {
      source.masked->make(pick.index, row, masked);
      continue;
    }
    if (source.spans) {
      source.spans->make(pick.index, row, spans);
      continue;
    }
    const auto inputs = lm.inputs.data<std::int32_t>().subspan(static_cast<std::size_t>(row) * width, width);
    const auto targets = lm.targets.data<std::int32_t>().subspan(static_cast<std::size_t>(row) * width, width);
    if (source.packing) packed_row(source.tokens, *source.packing, pad_, source.seed, pick.index, inputs, targets);
    else lm_row(source.tokens, seq_, source.seed, pick.index, inputs, targets);
  }
  if (objective_ == Objective::masked) return as_inputs(std::move(masked), predictions_);
  return objective_ == Objective::spans ? as_inputs(std::move(spans)) : as_inputs(std::move(lm));
}

}  // namespace rhetor
