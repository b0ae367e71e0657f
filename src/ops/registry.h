// The list of all ops.
#pragma once

#include "graph/op.h"

namespace rhetor {

const OpTable& all_ops();

}  // namespace rhetor
