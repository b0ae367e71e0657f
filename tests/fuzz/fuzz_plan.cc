// Any bytes as a plan file: refused with an Error, or executables that run. The checksum at the end is put right first, else nothing
// but the checksum would be tested; a plan it does not fit is tried as well.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "base/file.h"
#include "ops/ops.h"
#include "runtime/plan.h"
#include "seeds.h"

using namespace rhetor;

namespace {

std::filesystem::path scratch_file() {
  return std::filesystem::temp_directory_path() / ("rhetor_fuzz_" + std::to_string(::getpid()) + ".plan");
}

void try_plan(const std::string& bytes) {
  const std::filesystem::path path = scratch_file();
  std::FILE* file = std::fopen(path.c_str(), "wb");
  require(file != nullptr);
  std::fwrite(bytes.data(), 1, bytes.size(), file);
  std::fclose(file);
  try {
    const Plan plan = load_plan(path);
    for (const auto& [name, executable] : plan.executables) {
      // A mutated shape may ask for more memory than a test should take.
      if (executable->report().arena_bytes > (1u << 24)) continue;
      Session session(executable);
      session.run();
    }
  } catch (const Error& error) {
    require(error.kind() != ErrorKind::internal);
  }
  std::filesystem::remove(path);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string bytes(reinterpret_cast<const char*>(data), size);
  try_plan(bytes);
  if (size < 8) return 0;
  // As runtime/plan.h describes it: XXH3 of all before, chained over blocks of 1 MiB.
  constexpr std::size_t block = std::size_t{1} << 20;
  const auto body = std::as_bytes(std::span(bytes)).first(size - 8);
  std::uint64_t hash = 0;
  for (std::size_t at = 0; at < body.size(); at += block) hash = hash64(body.subspan(at, std::min(block, body.size() - at)), hash);
  std::memcpy(bytes.data() + body.size(), &hash, sizeof hash);
  try_plan(bytes);
  return 0;
}

std::vector<std::string> fuzz_seeds() {
  Graph g;
  const Value x = g.input("x", {DType::f32, {2, 8}});
  const Value w = g.input("w", {DType::f32, {8, 4}}, InputKind::param, "normal:0.1");
  const Value count = g.input("count", {DType::f32, {2, 4}}, InputKind::state);
  const Value y = relu(matmul(x, w));
  g.set_update(count, add(count, y));
  g.output("y", softmax(y));
  Weights weights;
  weights["w"] = Tensor(DType::f32, Shape{8, 4});
  Plan plan;
  plan.executables["cached.b1.s1"] = compile(g, weights, {.keep_weights = true});
  plan.blobs = {{"config.json", "{}"}, {"name", "small"}};
  save_plan(scratch_file(), plan);
  const std::string whole = read_file(scratch_file());
  std::filesystem::remove(scratch_file());
  return {"", "RHETPLAN", whole, whole, whole};
}
