// Groups for decoding, where a step has few rows and what it costs is the number of kernels (Target.few_rows).
//
//   products   up to three products of the same rows with fixed weights [n, k], with the rms_norm that makes these rows, if they alone
//              read it; or two of them, a gate, and up, with activation(gate) * up; name "products"
//   step       attention of one query a sequence over a cache, with writing the new key and value into the cache, with turning them
//              and the query by their positions; results: o, then the caches; name "attention_step"
#pragma once

#include "passes/fuse_groups.h"

namespace rhetor {

constexpr std::string_view kProductsAnchor = "products", kStepAnchor = "attention_step";

// Members of no two groups meet. `readers`: as FuseGrouper::readers().
std::vector<FuseGroup> decode_groups(const Graph& graph, const Target& target, const FuseGrouper& grouper);

}  // namespace rhetor
