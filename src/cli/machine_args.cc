#include "cli/machine_args.h"

#include "base/thread_pool.h"
#include "cuda/cuda.h"

namespace rhetor {

void MachineArgs::add_to(Args& args) {
  args.option("--threads", threads_, "CPU threads, 0 = all cores", 0, 1024)
      .option("--device", device_, "where to compute: cpu, cuda (the first GPU) or cuda:N");
}

void MachineArgs::apply() const {
  if (threads_ > 0) set_default_threads(threads());
  set_default_device(device_);
}

}  // namespace rhetor
