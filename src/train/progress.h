// The live line of a training run on standard error: rewritten in place on a terminal, now and then a plain line elsewhere.
#pragma once

#include <chrono>
#include <string>

#include "train/trainer.h"

namespace rhetor {

// "step 120/400  loss 3.214  val 3.301  12.3k tokens/s  data wait 0.1 %  1:05 left"
std::string progress_text(const TrainProgress& progress);

class ProgressLine {
 public:
  explicit ProgressLine(bool quiet);
  ~ProgressLine();  // ends the line
  void update(const TrainProgress& progress);
  // A message above the line.
  void note(const std::string& text);

 private:
  bool quiet_, terminal_, open_ = false;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace rhetor
