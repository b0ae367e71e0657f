// How a session runs on a device: its stream, and the recording of all its kernels. Private to this room.
//
// The first run is enqueued call by call, since libraries load code at first use; the second is recorded; later ones replay the
// recording by one call, until an address changes.
#pragma once

#include <functional>
#include <memory>

#include "cuda/cuda.h"

namespace rhetor {

class DeviceRun {
 public:
  explicit DeviceRun(const CudaDevice& device) : stream_(device) { stream_.make_marks(2); }
  // Runs `kernels` on stream(), between marks 0 and 1; does not wait. `kernels` is called for the first run and for each recording.
  void run(const std::function<void()>& kernels);
  void forget_recording() { recording_.reset(); }
  CudaStream& stream() { return stream_; }

 private:
  CudaStream stream_;
  std::shared_ptr<void> recording_;
  bool warm_ = false;
};

}  // namespace rhetor
