// Where a command computes: the options that all computing commands share.
#pragma once

#include <cstdint>
#include <string>

#include "cli/args.h"

namespace rhetor {

// Lives until the command line is parsed: the options write into it.
class MachineArgs {
 public:
  void add_to(Args& args);
  // After parsing, before anything is compiled: sets the process's threads and device.
  void apply() const;
  int threads() const { return static_cast<int>(threads_); }         // 0: all cores
  const std::string& device() const { return device_; }               // "cpu", "cuda", "cuda:N"

 private:
  std::int64_t threads_ = 0;
  std::string device_ = "cpu";
};

}  // namespace rhetor
