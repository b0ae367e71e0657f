// The tuner of devices: of the ways in which a library computes a problem, the fastest that rounds like its default.
//
// Tuning never changes a bit. A way is admitted if it belongs to the default's rounding class (same family of kernels, same split of k,
// same reduction) and if, besides, its result on made-up operands has the default's bits.
//
// Ways are tried in another process, the worker, which answers "try DEVICE WAY PROBLEM" by "done HASH MICROSECONDS" or "failed WHY". A way
// that hangs or crashes loses: the worker is ended and the next way has a new one. What was found is kept problem by problem in a file of
// the cache folder, by device, driver and version of the program (the library's version stands in the problem), so that a tuning that was
// ended half way goes on from there.
// Thread-safe.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cuda/cuda.h"
#include "runtime/tune.h"

namespace rhetor {

// The command that is the worker: this program's own. Until it is set nothing is measured.
void set_tune_worker(std::vector<std::string> command);
// Answers requests on standard input until it ends; the worker's main function.
int run_tune_worker();

// A worker that is started when first asked and after each end.
class TuneWorker {
 public:
  TuneWorker(std::vector<std::string> command, double patience_s) : command_(std::move(command)), patience_s_(patience_s) {}
  ~TuneWorker() { end(); }
  TuneWorker(const TuneWorker&) = delete;
  TuneWorker& operator=(const TuneWorker&) = delete;
  // Nothing if the way failed; `why` says how: it crashed, it hung, or what it said.
  std::optional<CudaTrial> ask(int device, const std::string& way, const std::string& problem, std::string& why);

 private:
  void start();
  void end();
  bool read_line(std::string& line, std::string& why);

  std::vector<std::string> command_;
  double patience_s_;
  int pid_ = -1, socket_ = -1;
};

// The index of the way to take for `problem`; 0, the default, where nothing else is known to be better.
int choose_way(int device, const std::string& problem, const std::vector<CudaWay>& ways, Tuning mode, TuneCache& cache, TuneWorker* worker);

// Lets the device's libraries ask this tuner, in the process's mode. Plans that were made before stay as they are.
void install_device_tuner();

}  // namespace rhetor
