#include "cuda/lt_trial.h"

#include <algorithm>
#include <cstring>
#include <sstream>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "tensor/tensor.h"

namespace rhetor {
namespace gpu {

std::string problem_text(const LtProblem& p, std::size_t version) {
  return fmt::format("lt {} {} {} {} {} {:d} {:d} {:d} {} {} {} {} {:d} {} {:d} {:d} {:d}", version, p.batch, p.m, p.n, p.k, p.transpose_a,
                     p.transpose_b, p.shared_b, name(p.a), name(p.b), name(p.out), static_cast<int>(p.activation), p.bias,
                     name(p.bias_dtype), p.residual, p.scaled, p.tf32);
}

LtProblem parse_problem(const std::string& text) {
  std::istringstream in(text);
  std::string word, a, b, out, bias;
  std::size_t version = 0;
  int activation = 0;
  LtProblem p;
  in >> word >> version >> p.batch >> p.m >> p.n >> p.k >> p.transpose_a >> p.transpose_b >> p.shared_b >> a >> b >> out >> activation >>
      p.bias >> bias >> p.residual >> p.scaled >> p.tf32;
  if (!in || word != "lt" || std::min({p.batch, p.m, p.n, p.k}) < 1 || activation < 0 || activation > static_cast<int>(Activation::tanh))
    fail("'{}' is no problem of cuBLASLt's", text);
  p.a = parse_dtype(a), p.b = parse_dtype(b), p.out = parse_dtype(out), p.bias_dtype = parse_dtype(bias);
  p.activation = static_cast<Activation>(activation);
  return p;
}

namespace {

constexpr double kMostBytes = 4e9;  // of operands and result
constexpr int kRounds = 5;
constexpr double kRoundSeconds = 4e-3;

// Numbers of [-1, 1), or whole ones of [-127, 127], that repeat with a prime period: drawing them all would take longer than the product.
std::shared_ptr<void> operand(const CudaDevice& device, DType dtype, std::int64_t elements, std::uint64_t stream) {
  const std::int64_t period = std::min<std::int64_t>(elements, 65537);
  Tensor drawn = Tensor::uninitialized({dtype, Shape{period}});
  Rng rng(23, stream);
  for (std::int64_t i = 0; i < period; ++i) {
    const double u = static_cast<double>(rng.uniform());
    drawn.set(i, is_float(dtype) ? 2 * u - 1 : static_cast<double>(static_cast<int>(255 * u) - 127));
  }
  std::shared_ptr<void> there = cuda_allocate(device, CudaMemory::device, static_cast<std::uint64_t>(elements) * byte_size(dtype));
  auto* bytes = static_cast<char*>(there.get());
  const std::size_t whole = static_cast<std::size_t>(elements) * byte_size(dtype);
  std::size_t done = std::min(whole, drawn.bytes());
  cuda_copy(bytes, drawn.raw(), done);
  for (; done < whole; done += std::min(done, whole - done)) cuda_copy(bytes + done, bytes, std::min(done, whole - done));
  return there;
}

}  // namespace
}  // namespace gpu

CudaTrial try_cuda_way(const CudaDevice& device, const std::string& problem, const std::string& way) {
  using namespace gpu;
  const LtProblem p = parse_problem(problem);
  const std::int64_t out_elements = p.batch * p.m * p.n, b_elements = (p.shared_b ? 1 : p.batch) * p.k * p.n;
  const double bytes = static_cast<double>(p.batch) * static_cast<double>(p.m) * static_cast<double>(p.k) * static_cast<double>(byte_size(p.a)) +
                       static_cast<double>(b_elements) * static_cast<double>(byte_size(p.b)) +
                       2.0 * static_cast<double>(out_elements) * static_cast<double>(byte_size(p.out));
  if (bytes > kMostBytes) fail(ErrorKind::resource, "it is too large to be tried");
  const std::shared_ptr<const LtPlan> plan = lt_plan(device, p);
  if (!plan->why_not().empty()) throw Error(ErrorKind::unsupported, plan->why_not());
  int algorithm = -1;
  for (int i = 0; i < plan->algorithms(); ++i)
    if (plan->ways()[static_cast<std::size_t>(i)].name == way) algorithm = i;
  if (algorithm < 0) fail("there is no way '{}'", way);

  CudaStream stream(device);
  const auto a = operand(device, p.a, p.batch * p.m * p.k, 1), b = operand(device, p.b, b_elements, 2);
  std::shared_ptr<void> bias, residual, scale;
  if (p.bias) bias = operand(device, p.bias_dtype, p.n, 3);
  if (p.residual) residual = operand(device, p.out, out_elements, 4);
  if (p.scaled) scale = operand(device, DType::f32, 1, 5);
  const std::uint64_t out_bytes = static_cast<std::uint64_t>(out_elements) * byte_size(p.out);
  const auto out = cuda_allocate(device, CudaMemory::device, out_bytes);
  const auto workspace = cuda_allocate(device, CudaMemory::device, plan->workspace_bytes(algorithm));
  const LtOperands operands{.a = a.get(), .b = b.get(), .bias = bias.get(), .residual = residual.get(), .a_scale = scale.get(),
                            .b_scale = scale.get(), .out = out.get()};
  const auto run = [&] { plan->run(operands, workspace.get(), stream.handle(), algorithm); };
  cuda_zero(device, out.get(), out_bytes);
  run();
  stream.synchronize();
  std::string result(out_bytes, '\0');
  cuda_copy(result.data(), out.get(), out_bytes);
  CudaTrial trial{.hash = hash64(result), .us = 1e30};

  stream.make_marks(2);
  int repeats = 1;
  for (int round = 0; round <= kRounds; ++round) {  // the first says how often a round must repeat
    stream.mark(0);
    for (int i = 0; i < repeats; ++i) run();
    stream.mark(1);
    stream.synchronize();
    const double seconds = stream.seconds(0, 1) / repeats;
    if (round == 0) repeats = std::clamp(static_cast<int>(kRoundSeconds / std::max(seconds, 1e-6)), 3, 1000);
    else trial.us = std::min(trial.us, seconds * 1e6);
  }
  return trial;
}

}  // namespace rhetor
