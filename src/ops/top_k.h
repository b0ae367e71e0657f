// top_k.cc, listed by embedding_ops(). Internal to the family.
#pragma once

#include "graph/op.h"

namespace rhetor {

const OpDef& top_k_op();

}  // namespace rhetor
