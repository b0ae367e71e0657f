// bench tune: products of many shapes by the device's library, each with the way it was computed and the hash of what came out.
#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "measure/bench.h"
#include "measure/result.h"
#include "ops/ops.h"
#include "runtime/executable.h"

namespace rhetor {
namespace {

struct Product {
  std::int64_t m, n, k;
};
// The products of BERT and GPT layers from one row to many, and some that divide nothing evenly.
constexpr Product kProducts[] = {
    {1, 768, 768},     {1, 3072, 768},     {8, 768, 3072},      {16, 4096, 4096},   {32, 2304, 768},    {64, 11008, 4096}, {128, 768, 768},
    {128, 3072, 768},  {128, 768, 3072},   {384, 1024, 1024},   {384, 4096, 1024},  {384, 1024, 4096},  {1024, 768, 3072}, {1024, 2304, 768},
    {1000, 1000, 1000}, {4096, 768, 768},  {4096, 3072, 768},   {4096, 4096, 4096}, {16384, 1024, 4096}, {2048, 50304, 768}};

Tensor drawn(const Type& type, std::uint64_t stream) {
  Tensor tensor(type);
  Rng rng(31, stream);
  for (std::int64_t i = 0; i < tensor.elements(); ++i) tensor.set(i, 2 * static_cast<double>(rng.uniform()) - 1);
  return tensor;
}

}  // namespace

BenchResult bench_tune(const BenchOptions& options) {
  const CudaDevice* device = find_device(options.device);
  if (!device) fail("rhetor bench tune measures a GPU's library; give --device cuda");
  const DType dtype = parse_dtype(options.dtype);
  BenchResult result = new_result(fmt::format("tune {}", options.dtype), options.threads);
  result.machine["device"] = cuda_description(*device);
  for (const auto& [m, n, k] : kProducts) {
    Graph g;
    const Value x = g.input("x", {dtype, Shape{m, k}}), w = g.input("w", {dtype, Shape{k, n}}, InputKind::param);
    g.output("y", matmul(x, w));
    CompileOptions compile;
    compile.device = device;
    compile.only = {{"matmul", "cuda.matmul.lt"}};
    compile.keep_precision = true;
    Session session(rhetor::compile(g, {{"w", drawn({dtype, Shape{k, n}}, 2)}}, compile));
    session.input("x") = drawn({dtype, Shape{m, k}}, 1);
    session.run();
    const Tensor& y = session.output("y");
    const std::uint64_t bits = hash64(std::string_view(static_cast<const char*>(y.raw()), y.bytes()));
    double best = 1e9;
    for (int i = 0; i < 20; ++i) best = std::min(best, session.run_timed());
    std::string way;
    for (const auto& choice : session.executable().report().choices)
      if (choice.kernel == "cuda.matmul.lt") way = choice.detail;
    result.rows.push_back({fmt::format("{}x{}x{}", m, n, k), {{"us", best * 1e6}, {"bits", fmt::format("{:016x}", bits)}, {"way", way}}});
  }
  return result;
}

}  // namespace rhetor
