// Adaptive gradient splitting: which gradients travel together, so that as little as possible of their travel is seen.
//
// The model. Backward makes the gradients of layers 1 .. L in this order; layer i is done at ready_i. A bucket is a run of layers; it may
// begin when its last gradient is ready and the bucket before it is through, for communication is one serial channel. It takes t(bytes).
// The exposed tail is what is left after backward: finish of the last bucket - ready_L.
//
// The exact answer. Let F(i) be the earliest time at which layers 1 .. i can be through, S_i the bytes of layers 1 .. i:
//     F(0) = 0,   F(i) = min over 0 <= j < i of  max(ready_i, F(j)) + t(S_i - S_j)
// The last bucket is j+1 .. i for some j; it starts at max(ready_i, finish of 1 .. j), which never gets later when 1 .. j finishes earlier,
// so the best prefix is part of a best whole (for any t >= 0). O(L^2) evaluations of t. The same recurrence with the number of buckets,
// F(k, i) from F(k - 1, j), then finds the fewest buckets that finish as early: O(k L^2).
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "parallel/comm_model.h"

namespace rhetor {

// One unit of the backward pass, in the order in which backward makes the gradients (the last layer of the model first).
struct BackwardLayer {
  std::string name;
  double seconds = 0;    // backward time between the previous unit's gradients and these
  double bytes = 0;      // of its gradients as they travel
};

// Buckets as their ends: bucket k holds layers [ends[k-1], ends[k]), the last end is the number of layers.
using BucketEnds = std::vector<std::int32_t>;

struct BucketTime {
  std::int32_t first = 0, last = 0;   // layers, inclusive
  double bytes = 0, ready = 0, start = 0, finish = 0;   // seconds from the beginning of backward
};
struct BucketTimeline {
  std::vector<BucketTime> buckets;
  double backward = 0;   // end of backward
  double tail = 0;       // exposed: finish of the last bucket - backward
  double communication = 0;   // seconds the channel is busy
};

// What the model says about a choice of buckets. REQUIRES: `ends` rise to layers.size().
BucketTimeline simulate_buckets(std::span<const BackwardLayer> layers, const BucketEnds& ends, const CommModel& model);

struct BucketLimits {
  double largest = std::numeric_limits<double>::infinity();   // bytes of a bucket, for its buffer; a single layer may exceed it
  std::int32_t most = std::numeric_limits<std::int32_t>::max();   // buckets
};
// The choice with the least tail; among equals the one with the fewest buckets (each costs the others a launch). Fails on negative or
// unusable times, and when no choice keeps to the limits.
BucketEnds best_buckets(std::span<const BackwardLayer> layers, const CommModel& model, const BucketLimits& limits = {});
// No choice has a smaller tail than this: the last gradients must travel after backward, and the channel needs its time.
double tail_bound(std::span<const BackwardLayer> layers, const CommModel& model);

// What others do.
BucketEnds one_bucket(std::span<const BackwardLayer> layers);
BucketEnds each_layer(std::span<const BackwardLayer> layers);
// A bucket is closed once it holds `bytes`; the first one once it holds `first` (PyTorch: 25 MiB, 1 MiB).
BucketEnds buckets_by_size(std::span<const BackwardLayer> layers, double bytes, double first);
// Two segments, cut where the first holds this share of the bytes or just more (a common constant: 96.54 %).
BucketEnds two_segments(std::span<const BackwardLayer> layers, double share = 0.9654);

// The choices side by side, one line each: name, buckets, tail, busy time.
struct NamedBuckets {
  std::string name;
  BucketEnds ends;
};
std::vector<NamedBuckets> usual_buckets(std::span<const BackwardLayer> layers, const CommModel& model);
std::string bucket_table(std::span<const BackwardLayer> layers, const CommModel& model, std::span<const NamedBuckets> choices);

// The overlap as a picture that stands alone: for every choice two lanes, backward and communication, with the tail marked.
std::string overlap_svg(std::span<const BackwardLayer> layers, const CommModel& model, std::span<const NamedBuckets> choices);

}  // namespace rhetor
