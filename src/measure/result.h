// An empty result that says what was measured, where and when.
#pragma once

#include <string>

#include "measure/bench.h"

namespace rhetor {

BenchResult new_result(std::string what, int threads);

}  // namespace rhetor
