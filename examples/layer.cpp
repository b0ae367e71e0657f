// Runs one layer as a graph from C++, without any model file:   y = gelu(x W + b)
#include <cmath>
#include <cstdio>

#include "rhetor/rhetor.hpp"

int main() {
  try {
    rhetor::api::Session session(R"(graph {
  %0 = input "x" : f32[2,3]
  %1 = param "w" : f32[3,2]
  %2 = param "b" : f32[2]
  %3 = matmul(%0, %1) {out = f32} : f32[2,2]
  %4 = broadcast_to(%2) {shape = [2,2]} : f32[2,2]
  %5 = add(%3, %4) : f32[2,2]
  %6 = gelu(%5) : f32[2,2]
  output "y" = %6
}
)");
    session.set<float>("w", {1, 0, 0, 1, 1, 1});
    session.set<float>("b", {0.5f, -0.5f});
    session.set<float>("x", {1, 2, 3, -1, -2, -3});
    session.run();
    const auto y = session.get<float>("y", 4);
    for (const float value : y) std::printf("%.6f ", static_cast<double>(value));
    std::printf("\n");
    // x W + b = 4.5, 4.5, -3.5, -5.5
    const double z[] = {4.5, 4.5, -3.5, -5.5};
    for (int i = 0; i < 4; ++i) {
      const double want = 0.5 * z[i] * (1 + std::erf(z[i] / std::sqrt(2.0)));
      if (std::fabs(want - static_cast<double>(y[static_cast<std::size_t>(i)])) > 1e-5) return 1;
    }
    return 0;
  } catch (const rhetor::api::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
