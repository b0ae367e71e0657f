// The table of CPU kernels and the choice among them.
#include <algorithm>

#include "base/error.h"
#include "cpu/families.h"

namespace rhetor {
namespace {

constexpr std::string_view kReference = "reference";

// Families in order of preference.
const std::vector<std::vector<KernelRow> (*)()> kFamilies = {
    matmul_small_rows, matmul_rows,    matmul_i8_rows, matmul_i4_rows, conv_rows,      pool_rows, quantize_rows_rows,
    fused_matmul_rows, norm_rows,      pointwise_rows, layout_rows,    reduce_rows,    softmax_rows,
    attention_rows,    embedding_rows, loss_rows,      random_rows,    float8_rows,    optimizer_rows};

}  // namespace

std::vector<KernelRow> join_families(const std::vector<std::vector<KernelRow> (*)()>& families) {
  std::vector<KernelRow> table;
  for (auto* family : families) {
    for (KernelRow& row : family()) {
      const auto same = std::find_if(table.begin(), table.end(), [&](const KernelRow& r) { return r.op == row.op; });
      if (same == table.end()) {
        table.push_back(std::move(row));
      } else {
        same->candidates.insert(same->candidates.end(), row.candidates.begin(), row.candidates.end());
      }
    }
  }
  std::sort(table.begin(), table.end(), [](const KernelRow& a, const KernelRow& b) { return a.op < b.op; });
  return table;
}

const std::vector<KernelRow>& kernel_table() {
  static const std::vector<KernelRow> table = join_families(kFamilies);
  return table;
}

bool choose_from(const std::vector<KernelRow>& table, const KernelRequest& request, std::string_view only, ChosenKernel& chosen) {
  const auto row = std::lower_bound(table.begin(), table.end(), request.node.op->name,
                                    [](const KernelRow& r, std::string_view op) { return r.op < op; });
  bool known = only.empty();
  if (row != table.end() && row->op == request.node.op->name) {
    for (const Candidate& candidate : row->candidates) {
      if (!only.empty() && candidate.name != only) continue;
      known = true;
      if (std::string reason = candidate.refuse(request); !reason.empty()) {
        if (!only.empty()) fail("the kernel '{}' cannot run this {} node: {}", only, request.node.op->name, reason);
        chosen.refused.push_back({std::string(candidate.name), std::move(reason)});
        continue;
      }
      chosen.name = candidate.name;
      chosen.kernel = candidate.prepare(request);
      chosen.kernel.absorbed.resize(request.in.size(), false);
      return true;
    }
  }
  if (!known) fail("there is no kernel '{}' for the op {}", only, request.node.op->name);
  return false;
}

ChosenKernel choose_kernel(const KernelRequest& request, std::string_view only) {
  check(request.threads >= 1, "a kernel is prepared for at least one thread");
  cpu_isa();  // settles the limits of Highway and oneDNN before either is asked
  ChosenKernel chosen;
  if (only != kReference && choose_from(kernel_table(), request, only, chosen)) return chosen;
  chosen.name = kReference;
  chosen.kernel = reference_kernel(request);
  chosen.kernel.absorbed.resize(request.in.size(), false);
  return chosen;
}

}  // namespace rhetor
