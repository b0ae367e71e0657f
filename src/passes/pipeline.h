// THE list of passes, in order. A pass is a function Graph -> Graph with a name; the pipeline gives each
// one timing, a dump, an off-switch and verification. Thread-safe (no globals).
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"

namespace rhetor {

// What the passes may know of the machine the graph is compiled for.
struct Target {
  std::string device = "cpu";
  int threads = 1;
  // Names of fused patterns the device has kernels for; fuse refuses others with "no kernel for ...".
  bool fuse_pointwise = true, fuse_epilogue = true, fuse_norm = true;
  // Ops whose kernels read operands that are columns of a wider tensor where they lie: fused with the slices and reshapes before them.
  std::set<std::string, std::less<>> strided = {};
  bool float8 = false;   // has products of FP8 tensors: dequantize_f8 x dequantize_f8 -> matmul is one kernel
  int few_rows = 0;   // up to so many rows a step is grouped as passes/fuse_decode.h says; 0: the device has no kernels for that
};

struct PassOptions {
  Target target;
  std::set<std::string, std::less<>> off;   // names of passes to skip; unknown names fail with the list of names
  bool verify = false;                      // verify() after each pass
  std::string dump_dir;                     // "": none; else writes NN-pass.txt after each pass
  // precision pass: contractions and attention run in this dtype (f32: pass does nothing). f8e4m3: in bf16, and then the float8 pass
  // puts products with a weight into FP8.
  DType compute = DType::f32;
  bool narrow = false;                      // precision pass: what lies between contractions has that dtype too (devices)
  std::set<std::string, std::less<>> wide_weights;  // float8 pass: weights whose products stay in bf16
  bool int8 = false;                        // quantize pass: matmul with a `param` weight -> dynamic int8
  bool int8_stored = false;                 // with int8: weights arrive as params "NAME.int8" i8 [n,k] and "NAME.scale" f32 [n]
  // With int8_stored: the weights that arrive so, and whether their NAME is [n,k] ([k,n] if not). One list serves every graph of a
  // model, whoever reads the weight there. Empty (and no int4 ones): those that this graph's matmuls read.
  std::map<std::string, bool, std::less<>> int8_weights;
  // With int8_stored: those that arrive as "NAME.int4" u8 [n,k/2] and "NAME.scale" f16 [n,k/32] instead; likewise.
  std::map<std::string, bool, std::less<>> int4_weights;
  std::uint64_t memory_budget = 0;          // remat pass: bytes of activations to fit; 0 = no recomputation
};

// Why a fusion candidate was not taken: "matmul %12 -> softmax %13: the consumer is a reduction".
struct Refusal {
  std::string pass, candidate, reason;
};

struct PassRecord {
  std::string name;
  double milliseconds = 0;
  int nodes_before = 0, nodes_after = 0;
  bool skipped = false;
  std::vector<Refusal> refusals;
  std::string note;                        // "folded 3, merged 12"
  std::vector<std::string> details;        // what was decided of each node, a line each; few passes say it
};

struct PassContext {
  const PassOptions& options;
  PassRecord& record;                      // passes add refusals and a note
};

struct Pass {
  std::string_view name, doc;
  Graph (*run)(const Graph&, PassContext&);
};

// In execution order: simplify, precision, merge, float8, quantize, remat, fuse, schedule. (grad runs when a training graph is built,
// passes/grad.h; memory planning makes no graph, passes/memory.h.)
const std::vector<Pass>& all_passes();

struct PipelineResult {
  Graph graph;
  std::vector<PassRecord> records;
};
PipelineResult run_passes(Graph graph, const PassOptions& options);

}  // namespace rhetor
