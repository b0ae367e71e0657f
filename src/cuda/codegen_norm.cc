// A layer_norm or rms_norm with the pointwise group before it, and its result in FP8 after it. Memory-bound: operands once, y and
// the sum, if it is read elsewhere, once. A warp has a row of up to 1,024 elements, a block a longer one; the row stays in registers between its sum,
// the squares around the mean (two passes, so that nothing cancels) and the result. Statistics in f32, or f64 for f64.
#include <algorithm>

#include "cuda/codegen_text.h"

namespace rhetor::gpu {
namespace {

// How a row is spread: vector v of thread t holds the elements (v threads + t) width, ...
struct RowPlan {
  std::int64_t cols;
  int width, threads, vectors;
  bool ragged;  // some threads have fewer vectors
};

RowPlan plan_row(std::int64_t cols, int width) {
  RowPlan plan{.cols = cols, .width = width};
  const std::int64_t all = cols / width, sixteenth = (cols + 15) / 16;
  plan.threads = cols <= 1024 ? 32 : static_cast<int>(std::min<std::int64_t>((std::min(sixteenth, all) + 31) / 32 * 32, 1024));
  plan.vectors = static_cast<int>((all + plan.threads - 1) / plan.threads);
  plan.ragged = all % plan.threads != 0;
  return plan;
}

// Opens a loop over the thread's vectors; close() ends it.
void each_vector(std::string& out, const RowPlan& plan) {
  out += fmt::format("#pragma unroll{}\n", plan.vectors * plan.width > 64 ? " 1" : "");
  out += fmt::format("  for (int v = 0; v < {}; ++v) {{\n", plan.vectors);
  out += fmt::format("    const I c = static_cast<I>(v * {} + t) * {};\n", plan.threads, plan.width);
  if (plan.ragged) out += fmt::format("    if (c >= {}u) break;\n", plan.cols);
}
void each_element(std::string& out, const RowPlan& plan) {
  out += fmt::format("#pragma unroll\n    for (int k = 0; k < {}; ++k) {{\n", plan.width);
}

// A result that is the norm's, times one number, in FP8: that number. Invalid if it is none.
ValueId factor_of(const Graph& body, std::int32_t norm, ValueId result) {
  const Node& narrow = body.node(result);
  if (narrow.op->name != "cast" || narrow.outputs[0].dtype != DType::f8e4m3) return {};
  const Node& product = body.node(narrow.inputs[0]);
  if (product.op->name != "mul") return {};
  for (const std::size_t k : {0u, 1u}) {
    const Node& repeat = body.node(product.inputs[1 - k]);
    if (product.inputs[k] == ValueId{norm, 0} && repeat.op->name == "broadcast_to" && body.type(repeat.inputs[0]).shape.rank() == 0)
      return repeat.inputs[0];
  }
  return {};
}

}  // namespace

KernelText norm_kernel(const Graph& body, std::int32_t at, const std::vector<ValueId>& inputs,
                       const std::vector<ValueId>& outputs) {
  const Node& norm = body.node(at);
  const bool centered = norm.op->name == "layer_norm";
  const Type& x = body.type(norm.inputs[0]);
  const std::int64_t cols = x.shape.last();
  if (cols == 0) throw Refused{"its rows are empty"};
  KernelText text;
  text.operands.largest = x.elements();
  BodyWriter before(body, inputs, {}, x.shape, text.operands, "", false),
      after(body, inputs, {}, x.shape, text.operands, "g", false);

  const std::string sum = before.value(norm.inputs[0]);
  std::vector<DType> results, whole{x.dtype};
  std::vector<std::string> values(outputs.size());  // of those computed before the norm
  bool sum_stored = false;
  int plain = -1, quantised = -1;  // the results that are the norm's as it is, and in FP8
  ValueId factor;
  for (std::size_t k = 0; k < outputs.size(); ++k) {
    const Type& type = body.type(outputs[k]);
    results.push_back(type.dtype);
    if (outputs[k] == ValueId{at, 0}) plain = static_cast<int>(k);
    if (outputs[k].node == at) continue;
    if (const ValueId number = factor_of(body, at, outputs[k]); number.valid()) {
      if (quantised >= 0) throw Refused{"it is stored in FP8 twice"};
      quantised = static_cast<int>(k);
      factor = number;
      continue;
    }
    if (type.shape != x.shape)
      throw Refused{fmt::format("a result has the shape {}, the norm {}", type.shape.str(), x.shape.str())};
    values[k] = outputs[k] == norm.inputs[0] ? "sum" : before.value(outputs[k]);
    sum_stored = sum_stored || outputs[k] == norm.inputs[0];
    whole.push_back(type.dtype);
  }
  const std::string gamma = after.value(norm.inputs[1]), beta = centered ? after.value(norm.inputs[2]) : "",
                    times = quantised >= 0 ? after.value(factor) : "";
  const Layout layout = before.layout(true), row_layout = after.layout(true);
  const RowPlan plan =
      plan_row(cols, std::min(before.vector_width(layout, whole, true), after.vector_width(row_layout, whole, true)));

  const bool f64 = lane_of(x.dtype) == Lane::f64;
  const std::string_view real = f64 ? "double" : "float", fma = f64 ? "fma" : "fmaf";
  // A fused node writes no operand in place: the loads of a row may all come before its stores.
  std::string code = fmt::format("({}, const I n) {{\n", text.operands.parameters(results, true));
  before.write_uniform(code, "  ");
  after.write_uniform(code, "  ");
  code += fmt::format(
      "  const int t = threadIdx.x % {0};\n  const I r = static_cast<I>(blockIdx.x) * (blockDim.x / {0}) + threadIdx.x / {0};\n"
      "  if (r >= n) return;\n",
      plan.threads);
  if (layout.dims.size() > 1) BodyWriter::write_places(code, "  ", layout, layout.dims.size() - 1, "r");

  // gamma and beta come with the first loads, packed as in memory, unless that takes too many registers.
  const bool early = after.packed_words(row_layout, plan.width) * plan.vectors <= 32;
  if (early) after.write_packed(code, "  ", row_layout, plan.width, plan.vectors);
  code += fmt::format("  {0} x[{1}][{2}], total = 0;\n", real, plan.vectors, plan.width);
  each_vector(code, plan);
  code += fmt::format("    const I i = r * {}u + c;\n", cols);
  before.write_loads(code, "    ", layout, plan.width, BodyWriter::Loads::whole);
  if (early) after.write_fetches(code, "    ", row_layout, plan.width);
  for (std::size_t k = 0; k < values.size(); ++k)
    if (!values[k].empty()) code += fmt::format("    {} y{}v[{}];\n", lane_type(lane_of(results[k])), k, plan.width);
  code += fmt::format("    {} part = 0;\n", real);
  each_element(code, plan);
  before.write_element(code, "      ", layout, plan.width);
  // The norm is that of what is stored, rounding included: the gradient will read it.
  const bool rounded = sum_stored && !f64 && x.dtype != DType::f32;
  code += fmt::format("      const {} sum = {};\n", real, rounded ? fmt::format("round_{}({})", name(x.dtype), sum) : sum);
  for (std::size_t k = 0; k < values.size(); ++k)
    if (!values[k].empty()) code += fmt::format("      y{}v[k] = {};\n", k, values[k]);
  code += fmt::format("      x[v][k] = sum;\n      part = {};\n    }}\n    total += part;\n",
                      centered ? "part + sum" : fmt::format("{}(sum, sum, part)", fma));
  for (std::size_t k = 0; k < values.size(); ++k)
    if (!values[k].empty()) code += fmt::format("    store<{}, {}>(r{} + i, y{}v);\n", format_name(results[k]), plan.width, k, k);
  code += "  }\n";

  if (centered) {
    code += fmt::format("  const {0} mean = row_sum<{1}>(total) / {2};\n  {0} squares = 0;\n", real, plan.threads, cols);
    each_vector(code, plan);
    code += fmt::format("    {} part = 0;\n", real);
    each_element(code, plan);
    code += fmt::format("      const {} d = x[v][k] - mean;\n      part = {}(d, d, part);\n    }}\n    squares += part;\n  }}\n",
                        real, fma);
  }
  code += fmt::format("  const {} rstd = 1 / sqrt{}(row_sum<{}>({}) / {} + {});\n", real, f64 ? "" : "f", plan.threads,
                      centered ? "squares" : "total", cols, literal(f64 ? DType::f64 : DType::f32, norm.attrs.f("eps")));
  for (std::size_t k = 0; k < outputs.size(); ++k) {
    if (outputs[k].node != at || outputs[k].output == 0) continue;
    const bool mean = centered && outputs[k].output == 1;
    code += fmt::format("  if (t == 0) {{\n    const {} one[1] = {{{}}};\n    store<{}, 1>(r{} + r, one);\n  }}\n", real,
                        mean ? "mean" : "rstd", format_name(results[k]), k);
  }
  if (plain >= 0 || quantised >= 0) {
    each_vector(code, plan);
    code += fmt::format("    const I i = r * {}u + c;\n    {} y[{}];\n", cols, real, plan.width);
    if (quantised >= 0) code += fmt::format("    float q[{}];\n", plan.width);
    after.write_loads(code, "    ", row_layout, plan.width, early ? BodyWriter::Loads::packed : BodyWriter::Loads::whole);
    each_element(code, plan);
    after.write_element(code, "      ", row_layout, plan.width);
    code += centered ? fmt::format("      y[k] = (x[v][k] - mean) * rstd * {} + {};\n", gamma, beta)
                     : fmt::format("      y[k] = x[v][k] * rstd * {};\n", gamma);
    if (quantised >= 0) code += fmt::format("      q[k] = y[k] * {};\n", times);
    code += "    }\n";
    const auto store = [&](int k, std::string_view values_of) {
      if (k >= 0)
        code += fmt::format("    store<{}, {}>(r{} + i, {});\n", format_name(results[static_cast<std::size_t>(k)]), plan.width, k, values_of);
    };
    store(plain, "y");
    store(quantised, "q");
    code += "  }\n";
  }
  code += "}\n";

  text.count = x.elements() / cols;
  text.results = results.size();
  text.width = plan.width;
  text.row_threads = plan.threads;
  text.wide = text.operands.largest >= (std::int64_t{1} << 31);
  text.name = fmt::format("{}{}{}", norm.op->name, before.ops().empty() ? "" : "_after_", before.ops().substr(0, 60));
  std::replace(text.name.begin(), text.name.end(), ' ', '_');
  text.summary = fmt::format("{}, {} by {} threads a row", before.summary(), norm.op->name, plan.threads);
  text.code = fmt::format("{}\ntypedef {} I;\nextern \"C\" __global__ void __launch_bounds__({}) {}{}", codegen_prelude(),
                          text.wide ? "u64" : "u32", plan.threads == 32 ? 128 : plan.threads, text.name, code);
  return text;
}

}  // namespace rhetor::gpu
