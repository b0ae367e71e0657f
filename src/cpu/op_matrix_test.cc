// Every op x sample x dtype x CPU kernel against the float64 oracle. Nothing here names an op: a new kernel is tested by being in
// the table. Run under each RHETOR_ISA level.
#include "ops/op_matrix.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>

#include <fmt/format.h>

#include "cpu/kernel_testing.h"
#include "ops/registry.h"

namespace fs = std::filesystem;

namespace rhetor {
namespace {

struct Tally {
  int runs = 0;
  std::set<std::string> refusals;
};
std::map<std::string, Tally>& tallies() {
  static std::map<std::string, Tally> all;
  return all;
}

class CpuOpMatrix : public testing::TestWithParam<const OpDef*> {};

TEST_P(CpuOpMatrix, EveryKernelAgreesWithTheOracle) {
  const OpDef& op = *GetParam();
  const KernelRow* row = nullptr;
  for (const KernelRow& r : kernel_table())
    if (r.op == op.name) row = &r;
  for (const OpCase& one : op_cases(op)) {
    if (one.ranks() > 1) continue;  // a group of ranks is the communicator's business
    Prepared p(case_graph(one), make_operands(one));
    for (const std::int64_t draw : {1, 2, 3}) p.also_allow(Prepared(case_graph(one), make_operands(one, draw)));
    for (const bool constants : {false, true})
      for (const int threads : {1, 2}) {
        const KernelRequest request = p.request(constants, threads);
        std::vector<std::string> names;
        for (std::size_t i = 0; row && i < row->candidates.size(); ++i) names.emplace_back(row->candidates[i].name);
        if (!constants && threads == 1) names.emplace_back("reference");
        for (const std::string& name : names) {
          SCOPED_TRACE(fmt::format("{} / {}{}, {} threads", one.str(), name, constants ? " with constants" : "", threads));
          if (name != "reference") {
            const auto candidate =
                std::find_if(row->candidates.begin(), row->candidates.end(), [&](const auto& c) { return c.name == name; });
            if (std::string why = candidate->refuse(request); !why.empty()) {
              tallies()[name].refusals.insert(why);
              continue;
            }
          }
          const ChosenKernel chosen = choose_kernel(request, name);
          ++tallies()[name].runs;
          run_and_compare(p, chosen.kernel, threads, false);
          const int reused = op.traits.inplace;
          const bool absorbed = reused >= 0 && chosen.kernel.absorbed[static_cast<std::size_t>(reused)];
          if (reused >= 0 && !absorbed && p.operands[static_cast<std::size_t>(reused)].defined()) {
            SCOPED_TRACE("in place");
            run_and_compare(p, chosen.kernel, threads, true);
          }
        }
      }
  }
}

INSTANTIATE_TEST_SUITE_P(All, CpuOpMatrix, testing::ValuesIn(all_ops().all().begin(), all_ops().all().end()),
                         [](const auto& test) { return std::string(test.param->name); });

TEST(CpuTable, EveryRowIsAnOpAndEveryOpHasARow) {
  std::set<std::string_view> rows;
  for (const KernelRow& row : kernel_table()) {
    EXPECT_NE(all_ops().find(row.op), nullptr) << "the table has a row for " << row.op << ", which is no op";
    EXPECT_TRUE(rows.insert(row.op).second) << row.op << " has two rows";
  }
  for (const OpDef* op : all_ops().all()) {
    if (op == &input_op() || op == &constant_op() || op->traits.kind == OpKind::collective) continue;
    EXPECT_TRUE(rows.contains(op->name)) << op->name << " has no kernel but the reference";
  }
}

TEST(CpuTable, ANameRestrictsTheChoice) {
  const OpCase one = op_cases(all_ops().at("matmul")).front();
  const Prepared p(case_graph(one), make_operands(one));
  EXPECT_EQ(choose_kernel(p.request(false, 1), "reference").name, "reference");
  EXPECT_THROW(choose_kernel(p.request(false, 1), "cpu.no_such_kernel"), Error);
  EXPECT_THROW(choose_kernel(p.request(false, 1), "cpu.matmul.panels"), Error);  // refuses: the weights are unknown
  const ChosenKernel chosen = choose_kernel(p.request(false, 1));
  ASSERT_FALSE(chosen.refused.empty());
  EXPECT_EQ(chosen.refused[0].candidate, "cpu.matmul.panels");
}

// The same matrix at every lower instruction set level: in a process of its own, since the level is chosen once.
TEST(CpuIsa, EveryLevelAgreesWithTheOracle) {
  if (std::getenv("RHETOR_ISA")) GTEST_SKIP() << "this process is one of the levels";
  constexpr const char* kLevels[] = {"avx2", "avx512", "avx512_bf16"};
  for (int level = 0; level < static_cast<int>(cpu_isa()); ++level) {
    const std::string log = testing::TempDir() + fmt::format("cpu_isa_{}.{}.log", kLevels[level], getpid());
    const std::string self = fs::read_symlink("/proc/self/exe").string();
    const std::string command = fmt::format(
        "RHETOR_ISA={} '{}' --gtest_brief=1 --gtest_filter='*CpuOpMatrix*:MatmulI8.*' > '{}' 2>&1", kLevels[level], self, log);
    EXPECT_EQ(std::system(command.c_str()), 0) << kLevels[level] << ": see " << log;
    if (!HasFailure()) fs::remove(log);
  }
}

class Report : public testing::Environment {
  void TearDown() override {
    fmt::print("CPU kernels exercised on {}:\n", cpu_description());
    for (const auto& [name, tally] : tallies()) {
      if (tally.runs > 0)
        fmt::print("  {:6} runs  {}\n", tally.runs, name);
      else
        fmt::print("   never      {}: {}\n", name, fmt::join(tally.refusals, "; "));
    }
  }
};
const auto* const kReport = testing::AddGlobalTestEnvironment(new Report);

}  // namespace
}  // namespace rhetor
