// Runs texts of any length through the heads of one model: rows are sorted into buckets of length and batch, whose executables
// are compiled when first needed and kept. Callers run side by side, each in a session of its own; of those that nobody uses only the
// latest stay, so that memory does not depend on how many buckets have ever been asked for.
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
  };
  struct Idle {
    Key key;
    std::unique_ptr<Session> session;
  };
  Slot& slot(const Key& key) const;
  std::unique_ptr<Session> take_session(const Key& key, const ExecutablePtr& executable) const;
  void give_back(const Key& key, std::unique_ptr<Session> session) const;
  void run_batch(const Key& key, std::span<const Encoding> rows, std::span<const std::size_t> order, const Read& read) const;

  ModelPtr model_;
  CompileOptions compile_;
  std::vector<std::int64_t> lengths_;  // buckets, ascending; the last one is the context
  mutable std::mutex mutex_;
  mutable std::map<Key, std::unique_ptr<Slot>> slots_;
  mutable std::vector<Idle> idle_;  // the latest used last
};

}  // namespace rhetor
