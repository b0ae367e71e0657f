// The compiled form of a pointwise program; shared by the compiler (program.cc) and the machine (program_run.cc).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "cpu/program.h"
#include "tensor/tensor.h"

namespace rhetor {

// What a tile register holds an element as. bool, i8 and u8 live in i32 (bool as 0 or 1).
enum class Lane : std::uint8_t { f32, f64, i32, i64 };

// The order of the arithmetic part follows the table in program.cc.
enum class Code : std::uint8_t {
  load, store, convert, dropout,
  neg, abs, sign, exp, log, sqrt, rsqrt, reciprocal, square, sin, cos, tanh, erf, sigmoid, relu, gelu, gelu_tanh, silu, floor, round,
  is_finite, logical_not,
  add, sub, mul, div, pow, gelu_tanh_grad, maximum, minimum, equal, less, less_equal, logical_and, logical_or,
  where,
};

struct Instr {
  Code code;
  Lane lane = Lane::f32;         // of the operands (convert: of the source)
  DType dtype = DType::f32;      // load, store: in memory; convert: the target
  std::int16_t dst = -1, a = -1, b = -1, c = -1;  // tile registers
  std::int16_t slot = -1;        // load: operand; store: result
  bool full = false;             // load: same shape as the result
  double p = 0;                  // dropout: probability
  std::int64_t stream = 0, offset = 0;   // dropout; offset: element 0's place in the stream
};

// How one operand is read along the flattened result: collapsed dims, outermost first, strides in elements. The innermost stride
// is 0 or 1; rank 0 is a scalar.
struct Access {
  int rank = 0;
  std::array<std::int64_t, Shape::kMaxRank> sizes{}, strides{};
};

struct Operand {
  Access access;
  int input = -1, constant = -1;   // one of the two
};

// sums [+ bias] [activation] [+ residual] -> f32 or bf16, in this order (program_chain.cc).
struct Chain {
  int bias = -1, residual = -1;        // which input: one row repeated; as large as the result
  DType bias_dtype = DType::f32, residual_dtype = DType::f32, out = DType::f32;
  Code activation = Code::load;        // load: none
};

class Program {
 public:
  std::int64_t rows = 1, cols = 1;
  std::vector<Instr> prologue;     // scalars spread over a tile register, once a run
  std::vector<Instr> body;         // per tile; stores last
  std::vector<Operand> operands;   // by slot: one for every way an input or constant is read
  std::vector<Tensor> constants;
  int registers = 0;
  bool single_output = true;       // loads may alias memory, the last instruction may write to it
  bool random = false;
  std::optional<Chain> chain;      // what run_program_block does instead, if the program has this form

  static constexpr std::int64_t kTile = 512;         // elements; a register is 2 or 4 KiB
  static constexpr std::int64_t kBlockCols = ProgramBlock::kCols;  // a register as rows of a ProgramBlock
  static constexpr std::int64_t kRegisterBytes = kTile * 8;
  static constexpr std::int64_t kRandomWords = kTile + 128;  // whole Philox blocks around a tile
};

// REQUIRES: registers not yet allocated.
std::optional<Chain> find_chain(const Program& program);
void run_chain(const Chain& chain, const void* const* in, void* out, std::int64_t all_cols, const ProgramBlock& block);

}  // namespace rhetor
