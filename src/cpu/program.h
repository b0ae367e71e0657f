// The pointwise program: a group of pointwise, broadcast, cast and dropout ops compiled once into a short list of vector
// instructions that run tile by tile (a few hundred elements, in the first-level cache). One program replaces a chain of kernels that
// would each read and write memory: every operand is read once, every result written once.
//
// Arithmetic is f32 for f32, bf16 and f16 (converted at load and store, intermediates are not rounded; an explicit cast is), f64 for f64,
// and the declared integer width otherwise. Operands may be full, per row, per column, scalar or any other numpy broadcast.
// Thread-safety: a Program is immutable; any number of threads may run it, each with its own scratch. Running allocates nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace rhetor {

class Program;
using ProgramPtr = std::shared_ptr<const Program>;

// Compiles the nodes of `body` between `inputs` and `outputs`. `inputs` may be any values of the body (graph inputs, the result of a
// contraction): operand k of a run is inputs[k]; constants are held by the program. All outputs have one shape, the result's.
// `storage` (optional, per input) says in which dtype operand k lies in memory if that is not its declared one: an f32 accumulator for a
// bf16 contraction. Null, with the reason as a clause in *why_not, if the program cannot express the body.
ProgramPtr compile_program(const Graph& body, const std::vector<ValueId>& inputs, const std::vector<ValueId>& outputs,
                           std::string* why_not, const std::vector<DType>& storage = {});

// The result viewed as [rows, cols], cols its last dim (a scalar is [1, 1]).
std::int64_t program_rows(const Program& program);
std::int64_t program_cols(const Program& program);
// Bytes of tile scratch (64-byte aligned) each thread needs.
std::uint64_t program_scratch_bytes(const Program& program);

// Evaluates rows [row_begin, row_end) of the result. in[k] and out[k] point at the first element of the whole operand or result, so a
// caller that holds only a slice of a full operand passes slice - row_begin * cols elements. A result may be the same buffer as an
// operand of the same shape and element size (in place).
void run_program(const Program& program, const void* const* in, void* const* out, std::int64_t row_begin, std::int64_t row_end,
                 void* tile_scratch);
// As above for the elements [begin, end) of the flattened result: part of a row, or a split of a one-row result.
void run_program_elements(const Program& program, const void* const* in, void* const* out, std::int64_t begin, std::int64_t end,
                          void* tile_scratch);


// A rectangle of the result, at most ProgramBlock::kCols wide, whose accumulator (operand 0, of the result's shape) is not in memory but
// in `sums`: rows kCols apart, 64-byte aligned, readable to the end of the last.
struct ProgramBlock {
  static constexpr std::int64_t kCols = 32;
  std::int64_t row, rows, col, cols;
  const float* sums;
};
// Can it? False where operand 0 is read through a broadcast.
bool program_takes_blocks(const Program& program);
void run_program_block(const Program& program, const void* const* in, void* const* out, const ProgramBlock& block, void* tile_scratch);

// "load f32, load f32, add, gelu, store bf16": for rhetor explain and for tests.
std::string program_text(const Program& program);

}  // namespace rhetor
