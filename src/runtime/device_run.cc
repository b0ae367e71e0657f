#include "runtime/device_run.h"

namespace rhetor {

void DeviceRun::run(const std::function<void()>& kernels) {
  if (!warm_) {
    stream_.mark(0);
    kernels();
    stream_.mark(1);
    warm_ = true;
    return;
  }
  if (!recording_) {
    stream_.begin_recording();
    try {
      kernels();
    } catch (...) {
      try {
        stream_.end_recording();   // leaves the stream usable; what went wrong is said by the first error
      } catch (...) {
      }
      throw;
    }
    recording_ = stream_.end_recording();
  }
  stream_.mark(0);
  stream_.run(recording_.get());
  stream_.mark(1);
}

}  // namespace rhetor
