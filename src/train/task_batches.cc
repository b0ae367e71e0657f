// Batches of features: which ones meet, how long they are padded, and their targets as graph inputs.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"
#include "data/permutation.h"
#include "train/task_data.h"

namespace rhetor {
namespace {

using Task = BuildSpec::Task;

constexpr std::uint64_t kBlockSteps = 16;  // steps whose examples are sorted by length together
constexpr std::uint64_t kOrderSalt = 0x6f72646572, kDrawSalt = 0x64726177;
constexpr float kNone = std::numeric_limits<float>::quiet_NaN();

// Sequence lengths that graphs are compiled for: 16, 32, 48, 64, 96, 128, 192, ... and the longest allowed.
std::int64_t bucket(std::size_t length, std::int64_t most) {
  for (std::int64_t size = 16;; size *= 2) {
    for (const std::int64_t step : {size, size == 16 ? size : size + size / 2})
      if (static_cast<std::int64_t>(length) <= step) return std::min(step, most);
  }
}

Tensor filled(DType dtype, Shape shape, double value) {
  Tensor out(dtype, shape);
  for (std::int64_t i = 0; i < out.elements(); ++i) out.set(i, value);
  return out;
}

}  // namespace

std::int64_t TaskData::steps_per_epoch() const {
  const auto n = static_cast<std::int64_t>(train_.features.size());
  return std::max<std::int64_t>(1, n / (recipe_.batch * recipe_.accumulation));
}

NamedTensors TaskData::batch(std::uint64_t index) const {
  const auto n = static_cast<std::uint64_t>(train_.features.size());
  const auto examples = static_cast<std::uint64_t>(recipe_.batch * recipe_.accumulation),
             steps = static_cast<std::uint64_t>(steps_per_epoch());
  const std::uint64_t epoch = index / steps, step = index % steps;
  const std::uint64_t block = step / kBlockSteps, first = block * kBlockSteps, count = std::min(kBlockSteps, steps - first);
  std::vector<std::size_t> chosen;
  for (std::uint64_t i = first * examples; i < (first + count) * examples; ++i)
    chosen.push_back(static_cast<std::size_t>(permuted(i % n, n, recipe_.seed, epoch)));
  std::stable_sort(chosen.begin(), chosen.end(),
                   [&](std::size_t a, std::size_t b) { return train_.features[a].length < train_.features[b].length; });
  // The lengths of a block come in random order.
  const std::uint64_t place = permuted(step - first, count, recipe_.seed ^ kOrderSalt, epoch * steps + block);
  const auto begin = chosen.begin() + static_cast<std::ptrdiff_t>(place * examples);
  return assemble(train_, {begin, begin + static_cast<std::ptrdiff_t>(examples)}, static_cast<std::int64_t>(examples), index);
}

std::size_t TaskData::validation_batches() const {
  const auto size = static_cast<std::size_t>(recipe_.batch);
  return (order_.size() + size - 1) / size;
}

std::size_t TaskData::validation_count(std::size_t index) const {
  const auto size = static_cast<std::size_t>(recipe_.batch);
  return std::min(size, order_.size() - index * size);
}

NamedTensors TaskData::validation_batch(std::size_t index) const {
  const auto begin = order_.begin() + static_cast<std::ptrdiff_t>(index * static_cast<std::size_t>(recipe_.batch));
  return assemble(validation_, {begin, begin + static_cast<std::ptrdiff_t>(validation_count(index))}, recipe_.batch, 0);
}

// Documents of a query for one example: some relevant ones, at most half of the group unless the others do not fill it, in random
// order.
std::vector<std::uint32_t> TaskData::sampled(const TaskFeature& f, std::uint64_t draw) const {
  std::vector<std::uint32_t> relevant, others, out;
  for (std::uint32_t i = 0; i < f.rows.size(); ++i) (f.values[i] > 0 ? relevant : others).push_back(i);
  Rng rng(recipe_.seed ^ kDrawSalt, draw);
  for (auto* list : {&relevant, &others})
    for (std::size_t i = list->size(); i > 1; --i) std::swap((*list)[i - 1], (*list)[rng.below(i)]);
  const auto group = static_cast<std::size_t>(group_);
  std::size_t wanted = std::min(relevant.size(), std::max<std::size_t>(1, group / 2));
  wanted = std::min(relevant.size(), std::max(wanted, group - std::min(group, others.size())));
  out.assign(relevant.begin(), relevant.begin() + static_cast<std::ptrdiff_t>(wanted));
  for (std::size_t i = 0; i < others.size() && out.size() < group; ++i) out.push_back(others[i]);
  return out;
}

NamedTensors TaskData::assemble(const TaskPart& part, const std::vector<std::size_t>& features, std::int64_t examples,
                                std::uint64_t draw) const {
  const auto group = static_cast<std::size_t>(group_);
  const std::int64_t batch = examples * group_;
  // Rows of each feature, ranking's sampled first: the longest row decides the shape.
  std::vector<std::vector<std::uint32_t>> picked(features.size());
  std::size_t longest = 1;
  for (std::size_t i = 0; i < features.size(); ++i) {
    const TaskFeature& f = part.features[features[i]];
    picked[i].resize(f.rows.size());
    std::iota(picked[i].begin(), picked[i].end(), 0u);
    if (picked[i].size() > group) picked[i] = sampled(f, draw * static_cast<std::uint64_t>(examples) + i);
    for (const std::uint32_t r : picked[i]) longest = std::max(longest, part.rows[f.rows[r]].ids.size());
  }
  const std::int64_t seq = bucket(longest, seq_);
  const Shape per_example{examples}, per_row{batch}, tokens_shape{batch, seq};
  Tensor tokens(DType::i32, tokens_shape), segments(DType::i32, tokens_shape), lengths = filled(DType::i32, per_row, 1);
  const bool spans = kind_ == Task::span, tags = kind_ == Task::tag;
  Tensor labels = filled(DType::i32, tags ? tokens_shape : per_example, -100), ends = filled(DType::i32, per_example, -100);
  Tensor counts = filled(DType::i32, per_example, 1);
  Tensor values = filled(DType::f32,
                         kind_ == Task::rank      ? Shape{examples, group_}
                         : kind_ == Task::regress ? Shape{examples, 1}
                                                  : per_example,
                         kNone);
  for (std::size_t i = 0; i < features.size(); ++i) {
    const TaskFeature& f = part.features[features[i]];
    const auto example = static_cast<std::int64_t>(i);
    for (std::size_t r = 0; r < picked[i].size(); ++r) {
      const TaskRow& row = part.rows[f.rows[picked[i][r]]];
      const std::int64_t at = example * group_ + static_cast<std::int64_t>(r);
      lengths.data<std::int32_t>()[static_cast<std::size_t>(at)] = static_cast<std::int32_t>(row.ids.size());
      std::copy(row.ids.begin(), row.ids.end(), tokens.data<std::int32_t>().begin() + at * seq);
      std::copy(row.segments.begin(), row.segments.end(), segments.data<std::int32_t>().begin() + at * seq);
      if (kind_ == Task::rank) values.data<float>()[static_cast<std::size_t>(at)] = f.values[picked[i][r]];
    }
    counts.data<std::int32_t>()[i] = static_cast<std::int32_t>(std::max<std::size_t>(1, picked[i].size()));
    if (tags)
      std::copy(f.labels.begin(), f.labels.end(), labels.data<std::int32_t>().begin() + example * seq);
    else if (!f.labels.empty())
      labels.data<std::int32_t>()[i] = f.labels[0];
    if (spans) ends.data<std::int32_t>()[i] = f.labels[1];
    if (kind_ != Task::rank && !f.values.empty()) values.data<float>()[i] = f.values[0];
  }
  NamedTensors out{{"tokens", tokens}, {"segments", segments}, {"lengths", lengths}};
  const bool numbers = kind_ == Task::regress || kind_ == Task::rank || (kind_ == Task::embed && recipe_.embedding == "cosine");
  if (numbers)
    out.emplace_back("values", values);
  else
    out.emplace_back(spans ? "start" : "labels", labels);
  if (spans) out.emplace_back("end", ends);
  if (kind_ == Task::choice) out.emplace_back("counts", counts);
  return out;
}

}  // namespace rhetor
