// Transposes at sizes that do not fit their tiles; every width of element.
#include <gtest/gtest.h>

#include "base/rng.h"
#include "cpu/kernel_testing.h"
#include "graph/interpreter.h"
#include "ops/ops.h"

namespace rhetor {
namespace {

TEST(Layout, TransposeOfAnySizeAndWidth) {
  ThreadPool pool(2);
  for (const DType dtype : {DType::i8, DType::bf16, DType::f32, DType::f64}) {
    for (const auto& [m, n] : {std::pair{1, 70}, {3, 5}, {4, 4}, {31, 33}, {64, 128}, {67, 35}, {130, 66}}) {
      for (const bool batched : {false, true}) {
        Graph g;
        const Value x = g.input("x", {dtype, batched ? Shape{3, m, n} : Shape{m, n}});
        const Value y = batched ? transpose(x, {0, 2, 1}) : transpose(x, {1, 0});
        const Node& node = g.node(y.id().node);
        Tensor in(x.type()), out(y.type());
        Rng rng(7);
        for (std::int64_t i = 0; i < in.elements(); ++i) in.set(i, static_cast<double>(rng.below(120)));
        const KernelRequest request{.graph = g, .node = node, .in = {x.type()}, .out = node.outputs, .constants = {nullptr}, .threads = 2};
        const Kernel kernel = choose_kernel(request, "cpu.transpose").kernel;
        const void* from = in.raw();
        void* to = out.raw();
        kernel.run(kernel.params.get(), {&from, &to, nullptr, pool});
        const std::int64_t batch = batched ? 3 : 1;
        for (std::int64_t b = 0; b < batch; ++b)
          for (std::int64_t i = 0; i < m; ++i)
            for (std::int64_t j = 0; j < n; ++j) ASSERT_EQ(out.at((b * n + j) * m + i), in.at((b * m + i) * n + j)) << m << " " << n;
      }
    }
  }
}

}  // namespace
}  // namespace rhetor
