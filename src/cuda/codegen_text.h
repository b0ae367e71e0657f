// The parts generated kernels are written from. One BodyWriter turns nodes of a graph into statements on one element; the kernels
// around them (codegen_pointwise.cc, codegen_norm.cc) decide which thread has which elements.
//
// The text is canonical: it holds no names of the model and no number of elements along the outermost dim, so that equal layers,
// and buckets that differ in the batch, share one kernel.
#pragma once

#include <array>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "cuda/codegen.h"
#include "graph/graph.h"
#include "graph/op.h"

namespace rhetor::gpu {

// ---- arithmetic (codegen_ops.cc) -------------------------------------------------------------------
// The type an element is computed in: f32 for f32 and all narrower floats; bool, i8 and u8 live in i32 (bool as 0 or 1).
enum class Lane : std::uint8_t { f32, f64, i32, i64 };
Lane lane_of(DType dtype);
std::string_view lane_type(Lane lane);      // "float"
std::string_view format_name(DType dtype);  // "BF16": the format's name in the prelude
std::string_view cell_type(DType dtype);    // "u16": what a pointer to such elements points at
std::string literal(DType dtype, double value);
std::string integer_literal(DType dtype, std::int64_t value);

// The op of a pointwise table on operands of `dtype`, applied to variables; "" if it is none. `fast`: the result is rounded to 16
// bits or fewer in the end.
std::string pointwise_text(std::string_view op, DType dtype, bool fast, const std::vector<std::string>& operands);
bool gives_bool(std::string_view op);
std::string cast_text(DType from, DType to, const std::string& x);

// codegen_prelude.cc: the declarations every kernel starts with.
const std::string& codegen_prelude();

// ---- bodies (codegen_body.cc) ------------------------------------------------------------------------
// Thrown while a kernel is written; refuse_pointwise() turns it into its answer.
struct Refused {
  std::string reason;
};

// What a kernel takes beside its results: pointers, then numbers.
struct KernelOperands {
  std::vector<int> inputs;             // numbers of the inputs it reads, in the order of its parameters a0, a1, ...
  std::vector<DType> dtypes;           // of those, in memory
  std::vector<Tensor> constants;       // device copies follow as b0, b1, ...
  std::vector<std::uint64_t> numbers;  // u64 parameters n0, n1, ...
  std::int64_t largest = 1;            // elements of the largest
  // "const u16* a0, ..., u16* r0, const u64 n0". apart: no result is in an operand's memory.
  std::string parameters(const std::vector<DType>& results, bool apart) const;
};

using Strides = std::array<std::int64_t, Shape::kMaxRank>;

// The dims of the result, with neighbours merged that every operand walks as one. Places inside them are counted by the variables
// c0, c1, ... (c of the innermost is `c`), the flat place is `i`.
struct Layout {
  std::vector<int> dims;  // per dim: the last of the result's dims in it
  std::vector<std::int64_t> sizes;
};

class BodyWriter {
 public:
  // `prefix` keeps the variables of two writers of one kernel apart. `fast` as above.
  BodyWriter(const Graph& body, const std::vector<ValueId>& inputs, const std::vector<DType>& storage, const Shape& result,
             KernelOperands& operands, std::string prefix, bool fast);

  // Writes what computes v, and returns the variable that holds it per element. v broadcasts to the result as numpy would.
  std::string value(ValueId v);
  // "load bf16, load bf16, add, gelu": what was written so far.
  const std::string& summary() const { return summary_; }
  const std::string& ops() const { return ops_; }  // "add_gelu"

  // keep_last: the last dim is not merged with others.
  Layout layout(bool keep_last) const;
  // Elements a thread takes at once: 16 bytes of the widest of operands and `results`, fewer where rows do not divide.
  int vector_width(const Layout& layout, const std::vector<DType>& results, bool ragged_rows) const;

  // Once a thread: what is the same for all elements.
  void write_uniform(std::string& out, std::string_view indent) const;
  // c0, c1, ... from `place`, the flat place along dims [0, count).
  static void write_places(std::string& out, std::string_view indent, const Layout& layout, std::size_t count,
                           std::string_view place);
  // The elements i, ..., i + width - 1.
  enum class Loads {
    whole,
    some,    // only those before n
    packed,  // of vector v, from what write_fetches() left
  };
  void write_loads(std::string& out, std::string_view indent, const Layout& layout, int width, Loads loads) const;
  // Loads ahead of their use: room for `vectors` vectors as they are in memory, and filling that of vector v.
  int packed_words(const Layout& layout, int width) const;  // 32-bit registers a vector
  void write_packed(std::string& out, std::string_view indent, const Layout& layout, int width, int vectors) const;
  void write_fetches(std::string& out, std::string_view indent, const Layout& layout, int width) const;
  // Inside a loop over k in [0, width): the statements of one element.
  void write_element(std::string& out, std::string_view indent, const Layout& layout, int width) const;

 private:
  using DimMap = std::vector<int>;  // which dim of a value each result dim walks along; -1: the value repeats there
  struct Var {
    std::string name;
    bool uniform = false;  // the same for all elements
  };
  struct Load {
    std::string name, pointer;
    DType dtype;
    Strides strides;
  };
  struct Draw {                              // random words of an element
    std::string name, seed, stream, offset;  // the last two: parameters
    Strides strides;
    int words, phase;  // words an element; offset % 4
  };
  struct Count {  // flat place of an element in a value
    std::string name;
    Strides strides;
  };
  struct Statement {
    std::string_view type;
    std::string name, text;
    bool uniform;
  };

  Strides strides_of(const Shape& shape, const DimMap& map) const;
  bool is_uniform(const Strides& strides) const;
  std::int64_t stride(const Strides& strides, const Layout& layout, std::size_t dim) const;
  std::string place_of(const Strides& strides, const Layout& layout) const;
  bool steps(const Strides& strides, const Layout& layout) const;
  bool whole_blocks(const Draw& draw, const Layout& layout, int width) const;
  std::vector<const Strides*> all_strides() const;

  Var emit(ValueId v, const DimMap& map);
  Var emit_new(ValueId v, const DimMap& map);
  Var load(const std::string& pointer, DType dtype, const Shape& shape, const DimMap& map);
  Var constant(const Tensor& value, const DimMap& map);
  Var statement(Lane lane, std::string text, bool uniform, std::string_view op);
  Var draw(const Node& node, std::size_t seed, const Shape& shape, const DimMap& map, int words);
  Var random(const Node& node, const Type& type, const DimMap& map);
  Var counted(const Node& node, const Type& type, const DimMap& map);
  std::string fresh(char kind) { return prefix_ + kind + std::to_string(next_++); }
  void say(std::string_view what);

  const Graph& body_;
  const std::vector<ValueId>& inputs_;
  const std::vector<DType> storage_;
  Shape shape_;
  KernelOperands& operands_;
  std::string prefix_;
  bool fast_;
  int next_ = 0, depth_ = 0;
  std::string summary_, ops_;
  std::map<std::pair<ValueId, DimMap>, Var> memo_;
  std::vector<Load> loads_;
  std::vector<Draw> draws_;
  std::vector<Count> counts_;
  std::vector<Statement> statements_;
};

// ---- whole kernels --------------------------------------------------------------------------------------
struct KernelText {
  std::string name;  // of the extern "C" function
  std::string code;
  std::string summary;  // "load bf16, load bf16, add, gelu, store bf16"
  KernelOperands operands;
  bool wide = false;    // places are counted in 64 bits; so is the last parameter
  int width = 1;        // elements a thread takes at once
  int row_threads = 0;  // norms: threads a row
  std::size_t results = 0;
  std::int64_t count = 0;  // elements; norms: rows
};
// Compiles and holds it (codegen.cc).
GeneratedPtr generated(const CudaDevice& device, KernelText text);

// The writers throw Refused.
KernelText pointwise_kernel(const Graph& body, const std::vector<ValueId>& inputs, const std::vector<ValueId>& outputs,
                            const std::vector<DType>& storage);
// The group around one layer_norm or rms_norm: `outputs` are results of the norm or pointwise values before it.
KernelText norm_kernel(const Graph& body, std::int32_t norm, const std::vector<ValueId>& inputs,
                       const std::vector<ValueId>& outputs);

}  // namespace rhetor::gpu
