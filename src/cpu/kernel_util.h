// Small helpers of those who write kernels.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "cpu/kernel.h"
#include "tensor/dtype.h"

namespace rhetor {

// The float types kernels compute in f32.
constexpr bool is_fast_float(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16; }
constexpr bool is_index(DType dtype) { return dtype == DType::i32 || dtype == DType::i64; }

// Calls f with a zero of the storage type. REQUIRES: is_fast_float(dtype).
template <class F>
void with_float(DType dtype, F&& f) {
  if (dtype == DType::f32) f(float{});
  else if (dtype == DType::bf16) f(bf16{});
  else f(f16{});
}

// A refusal clause for the first float operand or result that is f64 or f8; "" if there is none.
inline std::string refuse_wide_floats(const KernelRequest& request) {
  for (const auto* types : {&request.in, &request.out})
    for (const Type& type : *types)
      if (is_float(type.dtype) && !is_fast_float(type.dtype))
        return std::string("computes in f32, ") + std::string(name(type.dtype)) + " is left to the reference";
  return "";
}

// Is operand k present?
inline bool present(const KernelRequest& request, std::size_t k) {
  return k < request.node.inputs.size() && request.node.inputs[k].valid();
}

inline std::int64_t read_index(const void* p, DType dtype, std::int64_t i) {
  return dtype == DType::i32 ? static_cast<const std::int32_t*>(p)[i] : static_cast<const std::int64_t*>(p)[i];
}

constexpr std::uint64_t round_up(std::uint64_t bytes, std::uint64_t to = 64) { return (bytes + to - 1) / to * to; }

// Runs body(task) for every task in [0, tasks).
template <class Body>
void run_tasks(ThreadPool& pool, std::int64_t tasks, Body&& body) {
  pool.run(static_cast<int>(tasks), [](void* raw, int i) { (*static_cast<std::remove_reference_t<Body>*>(raw))(i); }, &body);
}
// Splits [0, count) evenly in `parts`; part i is [first(i), first(i + 1)).
constexpr std::int64_t part_begin(std::int64_t count, std::int64_t parts, std::int64_t i) { return count * i / parts; }

// As many tasks as threads, fewer when there is too little work for a task to be worth a thread's waking (some microseconds).
inline std::int64_t task_count(const ThreadPool& pool, std::int64_t rows, double work_per_row, double least_work = 16384) {
  const double total = static_cast<double>(rows) * work_per_row;
  const auto useful = static_cast<std::int64_t>(total / least_work) + 1;
  return std::max<std::int64_t>(1, std::min({useful, rows, static_cast<std::int64_t>(pool.threads())}));
}

}  // namespace rhetor
