// Runs texts of any length through the heads of one model: rows are sorted into buckets of length and batch, whose executables
// are compiled when first needed and kept; each has a free list of sessions, so that callers run side by side.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <tuple>
#include <vector>

#include "models/model.h"

namespace rhetor {

class EncoderRunner {
 public:
  EncoderRunner(ModelPtr model, CompileOptions compile);

  // The results of one row: it is row `row` of the outputs of `session`.
  using Read = std::function<void(std::size_t index, const Session& session, std::int64_t row)>;
  // Runs every encoding through `task` and hands its results to `read`, in any order. REQUIRES: none is longer than the context.
  void run(BuildSpec::Task task, std::span<const Encoding> rows, const Read& read) const;

 private:
  struct Key {
    BuildSpec::Task task;
    std::int64_t batch, seq;
    auto operator<=>(const Key&) const = default;
  };
  struct Slot {
    std::mutex compiling;
    ExecutablePtr executable;
    std::mutex guard;  // of `idle`
    std::vector<std::unique_ptr<Session>> idle;
  };
  Slot& slot(const Key& key) const;
  void run_batch(const Key& key, std::span<const Encoding> rows, std::span<const std::size_t> order, const Read& read) const;

  ModelPtr model_;
  CompileOptions compile_;
  std::vector<std::int64_t> lengths_;  // buckets, ascending; the last one is the context
  mutable std::mutex mutex_;
  mutable std::map<Key, std::unique_ptr<Slot>> slots_;
};

}  // namespace rhetor
