// First weights. Every parameter draws from its own Philox stream, keyed by its name: adding a parameter or changing the number of
// threads changes no other value.
#include <charconv>
#include <cmath>

#include "base/file.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "models/model.h"

namespace rhetor {
namespace {

// Four normals a block of four words: two Box-Muller pairs.
void fill_normal(std::span<float> out, std::uint64_t seed, std::uint64_t stream, double stddev) {
  const auto n = static_cast<std::int64_t>(out.size());
  default_pool().parallel_for((n + 3) / 4, 1024, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      const Philox words = random_block(seed, stream, static_cast<std::uint64_t>(block));
      for (std::size_t pair = 0; pair < 4; pair += 2) {
        const auto u = static_cast<float>((static_cast<double>(words[pair]) + 1.0) / 4294967296.0);   // (0, 1]
        const float angle = 6.2831853f * to_uniform(words[pair + 1]);
        const float radius = static_cast<float>(stddev) * std::sqrt(-2.0f * std::log(u));
        const std::int64_t at = block * 4 + static_cast<std::int64_t>(pair);
        if (at < n) out[static_cast<std::size_t>(at)] = radius * std::cos(angle);
        if (at + 1 < n) out[static_cast<std::size_t>(at + 1)] = radius * std::sin(angle);
      }
    }
  });
}

Tensor first_value(const std::string& name, const Type& type, const std::string& init, std::uint64_t seed) {
  if (type.dtype != DType::f32) fail("the parameter '{}' is {}; initial values exist for f32 only", name, type.str());
  if (init == "zeros") return Tensor(type);
  Tensor out = Tensor::uninitialized(type);
  if (init == "ones") {
    for (float& x : out.data<float>()) x = 1.0f;
    return out;
  }
  constexpr std::string_view kNormal = "normal:";
  double stddev = 0;
  const char* end = init.data() + init.size();
  const bool normal = init.starts_with(kNormal);
  const auto parsed = normal ? std::from_chars(init.data() + kNormal.size(), end, stddev) : std::from_chars_result{};
  if (!normal || parsed.ec != std::errc() || parsed.ptr != end || !(stddev >= 0))
    fail("the parameter '{}' has the init rule '{}'; expected zeros, ones or normal:STDDEV", name, init);
  fill_normal(out.data<float>(), seed, hash64(name), stddev);
  return out;
}

}  // namespace

Weights init_weights(const Graph& graph, std::uint64_t seed) {
  Weights out;
  for (const std::int32_t i : graph.input_nodes()) {
    const InputKind kind = graph.input_kind(i);
    const std::string& name = graph.input_name(i);
    // Trained weights are states; so are caches and moments, which start at zero in the state store and are no weights.
    if (kind == InputKind::input || (kind == InputKind::state && name.starts_with("cache."))) continue;
    const std::string& init = graph.node(i).attrs.s("init");
    if (kind == InputKind::state && init.empty()) continue;
    out.emplace(name, first_value(name, graph.node(i).outputs[0], init, seed));
  }
  return out;
}

}  // namespace rhetor
