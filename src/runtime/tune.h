// The tuner: of the ways to run a node that give the same bits, the fastest on this machine.
//
// A way is a kernel of the table and whether it uses all threads or one. Kernels that differ in tiling only share a name up to a '/'
// ("cpu.attention.amx/q64" is a variant of "cpu.attention.amx"): same operations in the same order. Besides, a way is admitted only if its
// results on the measured operands equal the default's bit for bit, so tuning cannot change what a model answers.
//
// Measured once per (processor, threads, version, kernel, types, attributes) and kept in a file of the cache folder: $RHETOR_CACHE, else
// $XDG_CACHE_HOME/rhetor, else ~/.cache/rhetor. A file that is damaged is set aside with a note and built anew.
// Thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>

#include "base/thread_pool.h"
#include "cpu/kernel.h"

namespace rhetor {

enum class Tuning {
  off,
  cached,   // what was measured before is used; nothing is measured
  measure,  // what the cache lacks is measured
};
// For the whole process. At first: RHETOR_TUNE=off|cached|measure, else cached.
Tuning tuning();
void set_tuning(Tuning mode);
// As the command line says it: --tune, --no-tune, or neither (which leaves the mode alone); both fail.
void set_tuning_flags(bool tune, bool no_tune);

struct TunedWay {
  std::string kernel;
  int threads = 0;                     // 0: all of the pool
  double default_us = 0, best_us = 0;  // medians of several runs
};

class TuneCache {
 public:
  // "" as file: in memory only.
  explicit TuneCache(std::filesystem::path file) : file_(std::move(file)) {}
  // The process's own, in the cache folder.
  static TuneCache& instance();
  bool empty();
  // False if the key is unknown.
  bool find(std::uint64_t key, TunedWay& way);
  // Writes the file, with what other processes have added to it meanwhile. A file that cannot be written is a note, not a failure.
  void put(std::uint64_t key, const TunedWay& way);

 private:
  void load();
  std::map<std::uint64_t, TunedWay> read() const;

  std::filesystem::path file_;
  std::mutex mutex_;
  bool loaded_ = false;
  std::map<std::uint64_t, TunedWay> ways_;
};

// `chosen`, or the kernel prepared in the best known way; its `detail` then ends with what was gained. Contractions only: nothing
// else takes long enough to matter.
ChosenKernel tuned(const KernelRequest& request, ChosenKernel chosen, ThreadPool& pool, Tuning mode, TuneCache& cache);

}  // namespace rhetor
