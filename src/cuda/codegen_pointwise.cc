// Pointwise groups. Memory-bound: every operand read once, every result written once, 16 bytes an access where rows divide.
#include <algorithm>

#include "cuda/codegen_text.h"

namespace rhetor::gpu {
namespace {

bool narrow_float(DType dtype) { return is_float(dtype) && byte_size(dtype) < 4; }

}  // namespace

KernelText pointwise_kernel(const Graph& body, const std::vector<ValueId>& inputs, const std::vector<ValueId>& outputs,
                            const std::vector<DType>& storage) {
  if (outputs.empty()) throw Refused{"it has no result"};
  const Shape& shape = body.type(outputs[0]).shape;
  std::vector<DType> results;
  for (const ValueId out : outputs) {
    const Type& type = body.type(out);
    if (type.shape != shape) throw Refused{fmt::format("its results have shapes {} and {}", shape.str(), type.shape.str())};
    results.push_back(type.dtype);
  }
  KernelText text;
  text.operands.largest = shape.elements();
  BodyWriter writer(body, inputs, storage, shape, text.operands, "", std::all_of(results.begin(), results.end(), narrow_float));
  std::vector<std::string> values;
  for (const ValueId out : outputs) {
    const Node& node = body.node(out);
    // Storing a value rounds it: a last cast to fewer bits need not.
    const bool rounds = node.op->name == "cast" && narrow_float(body.type(out).dtype) &&
                        lane_of(body.type(node.inputs[0]).dtype) == Lane::f32 &&
                        std::find(inputs.begin(), inputs.end(), out) == inputs.end();
    values.push_back(writer.value(rounds ? node.inputs[0] : out));
  }
  const Layout layout = writer.layout(false);
  const std::size_t dims = layout.dims.size();
  const int width = writer.vector_width(layout, results, false);
  const bool some = dims == 1 && width > 1;

  std::string code = fmt::format("({}, const I n) {{\n", text.operands.parameters(results, false));
  writer.write_uniform(code, "  ");
  code += fmt::format("  const I step = static_cast<I>(gridDim.x) * blockDim.x * {}u;\n", width);
  code +=
      fmt::format("  for (I i = (static_cast<I>(blockIdx.x) * blockDim.x + threadIdx.x) * {}u; i < n; i += step) {{\n", width);
  if (dims > 1) BodyWriter::write_places(code, "    ", layout, dims, "i");
  writer.write_loads(code, "    ", layout, width, some ? BodyWriter::Loads::some : BodyWriter::Loads::whole);
  for (std::size_t k = 0; k < results.size(); ++k)
    code += fmt::format("    {} y{}v[{}];\n", lane_type(lane_of(results[k])), k, width);
  code += fmt::format("#pragma unroll\n    for (int k = 0; k < {}; ++k) {{\n", width);
  writer.write_element(code, "      ", layout, width);
  for (std::size_t k = 0; k < results.size(); ++k) code += fmt::format("      y{}v[k] = {};\n", k, values[k]);
  code += "    }\n";
  for (std::size_t k = 0; k < results.size(); ++k) {
    const std::string_view format = format_name(results[k]);
    if (some)
      code += fmt::format("    if (n - i < {}) store_some<{}, {}>(r{} + i, y{}v, n - i); else\n", width, format, width, k, k);
    code += fmt::format("    store<{}, {}>(r{} + i, y{}v);\n", format, width, k, k);
  }
  code += "  }\n}\n";

  text.count = shape.elements();
  text.results = results.size();
  text.width = width;
  text.wide = text.operands.largest >= (std::int64_t{1} << 31);
  text.name = "pointwise_" + (writer.ops().empty() ? "copy" : writer.ops().substr(0, 60));
  std::replace(text.name.begin(), text.name.end(), ' ', '_');
  text.summary = writer.summary();
  for (const DType dtype : results) text.summary += fmt::format("{}store {}", text.summary.empty() ? "" : ", ", name(dtype));
  text.code = fmt::format("{}\ntypedef {} I;\nextern \"C\" __global__ void __launch_bounds__(256) {}{}", codegen_prelude(),
                          text.wide ? "u64" : "u32", text.name, code);
  return text;
}

}  // namespace rhetor::gpu
