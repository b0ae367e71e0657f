// Every op x sample x dtype x CUDA kernel against the float64 oracle, on the first device: twice with the same bits, in place,
// recorded and replayed. Nothing here names an op: a new kernel is tested by being in the table.
#include "ops/op_matrix.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "cuda/kernel_testing.h"
#include "ops/registry.h"

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

bool runs_on_devices(const OpDef& op) {
  return &op != &input_op() && &op != &constant_op() && op.traits.kind != OpKind::collective;
}
const KernelRow* row_of(std::string_view op) {
  for (const KernelRow& row : cuda_kernel_table())
    if (row.op == op) return &row;
  return nullptr;
}

// What failed, two lines a candidate: a broken kernel fails in all its cases.
class Failures {
 public:
  void add(const std::string& candidate, const std::string& line) {
    auto& [count, first] = of_[candidate];
    if (++count <= 2) first += "\n  " + line;
  }
  void report() const {
    for (const auto& [candidate, failed] : of_)
      ADD_FAILURE() << candidate << " failed " << failed.first << " times" << failed.second;
  }

 private:
  std::map<std::string, std::pair<int, std::string>> of_;
};

bool same_bits(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  for (std::size_t k = 0; k < a.size(); ++k)
    if (std::memcmp(a[k].raw(), b[k].raw(), a[k].bytes()) != 0) return false;
  return true;
}

// "" if all is well, else the first thing that is not.
std::string check_kernel(const Prepared& p, const Kernel& kernel) {
  DeviceRoom& room = device_room();
  DeviceBuffers buffers(room, p, kernel, false);
  const auto wrong = [&](const std::vector<Tensor>& results) {
    for (std::size_t k = 0; k < results.size(); ++k)
      if (std::string why = wrong_result(p, k, results[k]); !why.empty()) return why;
    return std::string();
  };
  std::vector<Tensor> first, again;
  buffers.upload();
  buffers.launch();
  if (std::string why = buffers.download(first); !why.empty()) return why;
  if (std::string why = wrong(first); !why.empty()) return why;

  buffers.upload();
  buffers.launch();
  if (std::string why = buffers.download(again); !why.empty()) return "second run: " + why;
  if (!same_bits(first, again)) return "two runs differ: " + compare(again[0], first[0]).str();

  room.stream().begin_recording();
  buffers.launch();
  const auto recording = room.stream().end_recording();
  for (const bool fresh : {true, false}) {  // the second time on what the first left in the scratch
    if (fresh) buffers.upload();
    room.stream().run(recording.get());
    if (std::string why = buffers.download(again); !why.empty()) return "replayed: " + why;
    if (!same_bits(first, again))
      return fmt::format("replayed {}, differs: {}", fresh ? "once" : "twice", compare(again[0], first[0]).str());
  }

  DeviceBuffers over(room, p, kernel, true);
  if (!over.any_in_place()) return "";
  over.upload();
  over.launch();
  if (std::string why = over.download(again); !why.empty()) return "in place: " + why;
  if (std::string why = wrong(again); !why.empty()) return "in place: " + why;
  return "";
}

class CudaOpMatrix : public testing::TestWithParam<const OpDef*> {};

TEST_P(CudaOpMatrix, EveryKernelAgreesWithTheOracle) {
  if (!cuda_absence().empty()) GTEST_SKIP() << cuda_absence();
  const OpDef& op = *GetParam();
  const KernelRow* row = row_of(op.name);
  if (!row) return;  // EveryRowIsAnOpAndEveryOpHasARow says so
  const CudaDevice& device = device_room().device();
  Failures failures;
  for (const OpCase& one : op_cases(op)) {
    if (one.ranks() > 1) continue;
    Prepared p(case_graph(one), make_operands(one));
    for (const std::int64_t draw : {1, 2, 3}) p.also_allow(Prepared(case_graph(one), make_operands(one, draw)));
    std::string refusals;
    bool taken = false;
    for (const bool constants : {false, true})
      for (const Candidate& candidate : row->candidates) {
        const std::string name(candidate.name),
            doing = fmt::format("{} / {}{}", one.str(), name, constants ? " with constants" : "");
        const Deadline deadline(doing);
        try {
          const KernelRequest request = p.request(constants, 1, &device);
          if (std::string why = candidate.refuse(request); !why.empty()) {
            tallies()[name].refusals.insert(why);
            if (!constants) refusals += fmt::format("; {}: {}", name, why);
            continue;
          }
          taken = true;
          ++tallies()[name].runs;
          const ChosenKernel chosen = choose_cuda_kernel(request, name);
          if (std::string why = check_kernel(p, chosen.kernel); !why.empty()) failures.add(name, doing + ": " + why);
        } catch (const Error& error) {
          survive(doing, error);
          failures.add(name, doing + ": " + error.what());
        }
      }
    if (!taken) failures.add("every candidate", fmt::format("{} is refused{}", one.str(), refusals));
  }
  failures.report();
}

INSTANTIATE_TEST_SUITE_P(All, CudaOpMatrix, testing::ValuesIn(all_ops().all().begin(), all_ops().all().end()),
                         [](const auto& test) { return std::string(test.param->name); });

// ---- without a device ----------------------------------------------------------------------------
TEST(CudaTable, EveryRowIsAnOpAndEveryOpHasARow) {
  std::set<std::string_view> rows;
  for (const KernelRow& row : cuda_kernel_table()) {
    EXPECT_NE(all_ops().find(row.op), nullptr) << "the table has a row for " << row.op << ", which is no op";
    EXPECT_TRUE(rows.insert(row.op).second) << row.op << " has two rows";
    EXPECT_FALSE(row.candidates.empty()) << row.op;
  }
  for (const OpDef* op : all_ops().all())
    EXPECT_TRUE(!runs_on_devices(*op) || rows.contains(op->name)) << op->name << " has no CUDA kernel";
}

// A name restricts the choice, so within a row it names one.
TEST(CudaTable, NamesOfCandidatesDiffer) {
  for (const KernelRow& row : cuda_kernel_table()) {
    std::set<std::string_view> names;
    for (const Candidate& candidate : row.candidates) {
      EXPECT_TRUE(names.insert(candidate.name).second) << row.op << " has two candidates called " << candidate.name;
      EXPECT_TRUE(candidate.name.starts_with("cuda.")) << candidate.name;
    }
  }
}

class Report : public testing::Environment {
  void TearDown() override {
    if (!cuda_absence().empty() || tallies().empty()) return;
    fmt::print("CUDA kernels exercised on {}:\n", cuda_description(device_room().device()));
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
