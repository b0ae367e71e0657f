#include "parallel/buckets.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace rhetor {
namespace {

void check_layers(std::span<const BackwardLayer> layers) {
  if (layers.empty()) fail("there are no gradients to put into buckets");
  for (const BackwardLayer& layer : layers)
    if (!(layer.seconds >= 0) || !(layer.bytes >= 0) || !std::isfinite(layer.seconds) || !std::isfinite(layer.bytes))
      fail("layer '{}' takes {} s and {} bytes; expected numbers that are not negative", layer.name, layer.seconds, layer.bytes);
}

struct Sums {
  std::vector<double> ready, bytes;   // of the layers before i
  explicit Sums(std::span<const BackwardLayer> layers) : ready(layers.size() + 1), bytes(layers.size() + 1) {
    for (std::size_t i = 0; i < layers.size(); ++i) {
      ready[i + 1] = ready[i] + layers[i].seconds;
      bytes[i + 1] = bytes[i] + layers[i].bytes;
    }
  }
};

constexpr double kNever = std::numeric_limits<double>::infinity();

// One step of the recurrence: the least finish of layers 1 .. i when the last bucket follows a prefix that finishes as `prefix` says.
struct Finish {
  double seconds = kNever;
  std::int32_t from = -1;   // the prefix
};
Finish extend(const Sums& sums, const CommModel& model, double largest, const std::vector<double>& prefix, std::size_t i) {
  Finish best;
  for (std::size_t j = i; j-- > 0;) {   // the last bucket grows, so the limit on it ends the search
    const double bytes = sums.bytes[i] - sums.bytes[j];
    if (bytes > largest && j + 1 < i) break;
    if (prefix[j] == kNever) continue;
    const double finish = std::max(sums.ready[i], prefix[j]) + model.seconds(bytes);
    if (finish < best.seconds) best = {finish, static_cast<std::int32_t>(j)};
  }
  return best;
}

}  // namespace

BucketTimeline simulate_buckets(std::span<const BackwardLayer> layers, const BucketEnds& ends, const CommModel& model) {
  check(!ends.empty() && ends.back() == static_cast<std::int32_t>(layers.size()), "buckets cover all layers");
  const Sums sums(layers);
  BucketTimeline timeline{.backward = sums.ready.back()};
  double free_at = 0;
  std::int32_t begin = 0;
  for (const std::int32_t end : ends) {
    check(end > begin, "no bucket is empty");
    BucketTime bucket{.first = begin, .last = end - 1};
    bucket.bytes = sums.bytes[static_cast<std::size_t>(end)] - sums.bytes[static_cast<std::size_t>(begin)];
    bucket.ready = sums.ready[static_cast<std::size_t>(end)];
    bucket.start = std::max(bucket.ready, free_at);
    bucket.finish = bucket.start + model.seconds(bucket.bytes);
    timeline.communication += bucket.finish - bucket.start;
    free_at = bucket.finish;
    timeline.buckets.push_back(bucket);
    begin = end;
  }
  timeline.tail = free_at - timeline.backward;
  return timeline;
}

BucketEnds best_buckets(std::span<const BackwardLayer> layers, const CommModel& model, const BucketLimits& limits) {
  check_layers(layers);
  const Sums sums(layers);
  const std::size_t n = layers.size();
  // F(i): any number of buckets.
  std::vector<double> any(n + 1, kNever);
  any[0] = 0;
  for (std::size_t i = 1; i <= n; ++i) any[i] = extend(sums, model, limits.largest, any, i).seconds;
  // F(k, i): exactly k buckets, until k are enough for the best finish (but for the rounding of sums).
  const double enough = any[n] * (1 + 1e-12);
  std::vector<double> finish(n + 1, kNever);
  finish[0] = 0;
  std::vector<std::vector<std::int32_t>> from;   // [k - 1][i]
  double least = kNever;
  std::size_t count = 0;
  for (std::int32_t k = 1; k <= limits.most && static_cast<std::size_t>(k) <= n && least > enough; ++k) {
    std::vector<double> next(n + 1, kNever);
    from.emplace_back(n + 1, -1);
    for (std::size_t i = static_cast<std::size_t>(k); i <= n; ++i) {
      const Finish best = extend(sums, model, limits.largest, finish, i);
      next[i] = best.seconds;
      from.back()[i] = best.from;
    }
    finish = std::move(next);
    if (finish[n] < least) least = finish[n], count = from.size();
  }
  if (count == 0)
    fail("{} buckets of at most {:.0f} bytes cannot hold {:.0f} bytes of gradients; allow more or larger ones", limits.most, limits.largest,
         sums.bytes[n]);
  BucketEnds ends;
  for (std::int32_t i = static_cast<std::int32_t>(n); count > 0; i = from[--count][static_cast<std::size_t>(i)]) ends.push_back(i);
  std::reverse(ends.begin(), ends.end());
  return ends;
}

double tail_bound(std::span<const BackwardLayer> layers, const CommModel& model) {
  check_layers(layers);
  // Two relaxations. The last bucket holds the last layer at least, and starts after backward. And all bytes go through one channel that
  // opens with the first gradient, at the best rate any size has.
  const Sums sums(layers);
  double last = std::numeric_limits<double>::infinity(), rate = 0;
  for (std::size_t j = 0; j < layers.size(); ++j) {
    const double seconds = model.seconds(sums.bytes.back() - sums.bytes[j]);
    last = std::min(last, seconds);
  }
  for (const CommModel::Range& range : model.ranges()) rate = std::max(rate, range.bandwidth);
  return std::max(last, sums.ready[1] + sums.bytes.back() / rate - sums.ready.back());
}

BucketEnds one_bucket(std::span<const BackwardLayer> layers) { return {static_cast<std::int32_t>(layers.size())}; }

BucketEnds each_layer(std::span<const BackwardLayer> layers) {
  BucketEnds ends;
  for (std::size_t i = 1; i <= layers.size(); ++i) ends.push_back(static_cast<std::int32_t>(i));
  return ends;
}

BucketEnds buckets_by_size(std::span<const BackwardLayer> layers, double bytes, double first) {
  BucketEnds ends;
  double held = 0;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    held += layers[i].bytes;
    if (held >= (ends.empty() ? first : bytes) || i + 1 == layers.size()) {
      ends.push_back(static_cast<std::int32_t>(i + 1));
      held = 0;
    }
  }
  return ends;
}

BucketEnds two_segments(std::span<const BackwardLayer> layers, double share) {
  const Sums sums(layers);
  std::size_t cut = 1;
  while (cut < layers.size() && sums.bytes[cut] < share * sums.bytes.back()) ++cut;
  if (cut >= layers.size()) return one_bucket(layers);
  return {static_cast<std::int32_t>(cut), static_cast<std::int32_t>(layers.size())};
}

std::vector<NamedBuckets> usual_buckets(std::span<const BackwardLayer> layers, const CommModel& model) {
  constexpr double mib = 1048576;
  return {{"adaptive", best_buckets(layers, model)},
          {"one bucket", one_bucket(layers)},
          {"25 MiB", buckets_by_size(layers, 25 * mib, mib)},
          {"two segments", two_segments(layers)}};
}

std::string bucket_table(std::span<const BackwardLayer> layers, const CommModel& model, std::span<const NamedBuckets> choices) {
  std::string text = fmt::format("{:<16}{:>8}{:>12}{:>12}\n", "buckets", "count", "tail ms", "busy ms");
  for (const NamedBuckets& choice : choices) {
    const BucketTimeline timeline = simulate_buckets(layers, choice.ends, model);
    text += fmt::format("{:<16}{:>8}{:>12.3f}{:>12.3f}\n", choice.name, choice.ends.size(), timeline.tail * 1e3, timeline.communication * 1e3);
  }
  return text + fmt::format("{:<16}{:>8}{:>12.3f}\n", "no less than", "", tail_bound(layers, model) * 1e3);
}

}  // namespace rhetor
