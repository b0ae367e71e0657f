#include "train/ranks.h"

#include <cstring>

#include "passes/shard.h"
#include "train/loss_scale.h"

namespace rhetor {
namespace {

Type with_dim(Type type, int dim, std::int64_t size) {
  type.shape.set_dim(dim, Dim(size, type.shape.dim(dim).name));
  return type;
}

// Where part `rank` lies in the whole: `outer` runs of `run` bytes, `stride` bytes apart.
struct Runs {
  std::size_t outer, run, stride, first;
};
Runs runs_of(const Type& whole, int dim, int ranks, int rank) {
  const auto outer = static_cast<std::size_t>(whole.shape.elements(0, dim));
  const std::size_t stride = outer == 0 ? 0 : static_cast<std::size_t>(whole.bytes()) / outer,
                    run = stride / static_cast<std::size_t>(ranks);
  return {outer, run, stride, run * static_cast<std::size_t>(rank)};
}

}  // namespace

Tensor cut_part(const Tensor& whole, int dim, int ranks, int rank) {
  Tensor out = Tensor::uninitialized(with_dim(whole.type(), dim, whole.shape()[dim] / ranks));
  const Runs at = runs_of(whole.type(), dim, ranks, rank);
  for (std::size_t o = 0; o < at.outer; ++o)
    std::memcpy(static_cast<char*>(out.raw()) + o * at.run, static_cast<const char*>(whole.raw()) + o * at.stride + at.first,
                at.run);
  return out;
}

Tensor join_parts(const std::vector<Tensor>& parts, int dim) {
  const int ranks = static_cast<int>(parts.size());
  Tensor out = Tensor::uninitialized(with_dim(parts[0].type(), dim, parts[0].shape()[dim] * ranks));
  for (int r = 0; r < ranks; ++r) {
    const Tensor& part = parts[static_cast<std::size_t>(r)];
    if (part.type() != parts[0].type()) fail("the parts of a tensor are {} and {}", parts[0].type().str(), part.type().str());
    const Runs at = runs_of(out.type(), dim, ranks, r);
    for (std::size_t o = 0; o < at.outer; ++o)
      std::memcpy(static_cast<char*>(out.raw()) + o * at.stride + at.first, static_cast<const char*>(part.raw()) + o * at.run,
                  at.run);
  }
  return out;
}

int Ranks::cut_dim(const std::string& name, const Type& whole) const {
  if (size() == 1 || name == kLossScaleState) return -1;
  const StrategyRow& kept = row(strategy);
  const bool cut = name.starts_with("adam.")   ? kept.shards_optimizer
                   : name.starts_with("grad.") ? kept.shards_gradients
                                               : kept.shards_parameters;
  for (int d = 0; cut && d < whole.shape.rank(); ++d)
    if (whole.shape[d] > 0 && whole.shape[d] % size() == 0) return d;
  return -1;
}

Type Ranks::part_type(const std::string& name, const Type& whole) const {
  const int dim = cut_dim(name, whole);
  return dim < 0 ? whole : with_dim(whole, dim, whole.shape[dim] / size());
}

Tensor Ranks::part(const std::string& name, const Tensor& whole) const {
  const int dim = cut_dim(name, whole.type());
  return dim < 0 ? whole : cut_part(whole, dim, size(), rank());
}

Tensor Ranks::whole(const std::string& name, const Type& type, const Tensor& part) const {
  const int dim = cut_dim(name, type);
  if (dim < 0) return part.clone();
  Tensor all = Tensor::uninitialized({type.dtype, Shape{type.elements()}});
  communicator->all_gather(ConstElements(part.raw(), type.dtype, part.elements()), {all.raw(), type.dtype, type.elements()},
                           name);
  std::vector<Tensor> parts;
  for (int r = 0; r < size(); ++r)
    parts.push_back(all.rows(r * part.elements(), (r + 1) * part.elements()).reshaped(part.shape()));
  return join_parts(parts, dim);
}

Graph Ranks::graph(const Graph& whole) const {
  if (size() == 1) return whole;
  const ShardSpec spec{.mesh = {{"data", size()}}, .position = {rank()}, .place = [this](const Graph& graph, std::int32_t node) {
                         const Type& type = graph.node(node).outputs[0];
                         const std::string& name = graph.input_name(node);
                         Placement placed{.dims = std::vector<int>(static_cast<std::size_t>(type.shape.rank()), -1)};
                         switch (graph.input_kind(node)) {
                           case InputKind::input:
                             // What does not divide (the tokens of an unpadded batch may not) every rank takes whole.
                             if (type.shape.rank() > 0 && type.shape[0] % size() == 0) placed.dims[0] = 0;
                             break;
                           case InputKind::param:
                             break;
                           case InputKind::state:
                             if (const int dim = cut_dim(name, type); dim >= 0) {
                               placed.dims[static_cast<std::size_t>(dim)] = 0;
                               placed.storage = true;
                             } else if (name.starts_with("grad.")) {
                               placed.partial = 1;
                             }
                             break;
                         }
                         return placed;
                       }};
  return shard(whole, spec);
}

std::string Ranks::from_first(const std::string& what, std::string text) const {
  if (!communicator) return text;
  std::int64_t length = static_cast<std::int64_t>(text.size());
  communicator->broadcast(std::span(&length, 1), 0, what + " (length)");
  text.resize(static_cast<std::size_t>(length));
  communicator->broadcast({text.data(), DType::u8, length}, 0, what);
  return text;
}

std::int32_t Ranks::most(std::int32_t value, const std::string& what) const {
  if (communicator) communicator->all_reduce(std::span(&value, 1), Reduce::max, what);
  return value;
}

void Ranks::report_different(const std::string& what, const std::string& mine) const {
  const std::string reason =
      mine.empty() ? "" : fmt::format("rank {} has another {} than rank 0: {}; start all ranks with the same", rank(), what, mine);
  std::int32_t last = -1;
  try {
    last = most(mine.empty() ? -1 : rank(), what + " compared");
  } catch (const Error&) {
    // A rank that heard of it sooner has left with the comparison still under way here: what this one knows says more.
    if (!mine.empty()) fail("{}", reason);
    throw;
  }
  if (last < 0) return;
  const std::string sentence =
      mine.empty() ? fmt::format("rank {} has another {} than rank 0; start all ranks with the same", last, what) : reason;
  if (communicator) communicator->abort(sentence);
  fail("{}", sentence);
}

}  // namespace rhetor
