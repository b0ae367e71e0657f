// What one of several ranks holds of a training step (data parallel; strategies: parallel/strategy.h). Internal to the room.
//
// Every rank makes the same batches and takes its rows of them; the graph of a rank is shard() of the whole step
// (passes/shard.h).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "graph/graph.h"
#include "parallel/strategy.h"
#include "tensor/tensor.h"

namespace rhetor {

struct Ranks {
  Communicator* communicator = nullptr;  // null: one rank
  Strategy strategy = Strategy::data_parallel;
  int rank() const { return communicator ? communicator->rank() : 0; }
  int size() const { return communicator ? communicator->size() : 1; }
  bool first() const { return rank() == 0; }

  // The dim along which the ranks share a state; -1: each holds all of it. `name` as in StepGraphs.
  int cut_dim(const std::string& name, const Type& whole) const;
  Type part_type(const std::string& name, const Type& whole) const;
  Tensor part(const std::string& name, const Tensor& whole) const;
  // All ranks call it in the same order. One rank's parts: the tensor itself.
  Tensor whole(const std::string& name, const Type& type, const Tensor& part) const;
  Graph graph(const Graph& whole) const;

  // Fails on every rank, naming a rank whose `text` differs from rank 0's; `difference` (of rank 0's and mine) tells that rank
  // how.
  template <class Difference>
  void require_same(const std::string& what, const std::string& text, const Difference& difference) const {
    if (!communicator) return;
    report_different(what, difference(from_first(what, text)));
  }
  std::string from_first(const std::string& what, std::string text) const;  // rank 0's
  // The largest of all ranks' values.
  std::int32_t most(std::int32_t value, const std::string& what) const;

 private:
  void report_different(const std::string& what, const std::string& mine) const;
};

// Rows [r, r + 1) * size / ranks along `dim`, and back.
Tensor cut_part(const Tensor& whole, int dim, int ranks, int rank);
Tensor join_parts(const std::vector<Tensor>& parts, int dim);

}  // namespace rhetor
