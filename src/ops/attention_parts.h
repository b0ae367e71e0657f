// The ops of an attention layer that are not attention itself, listed by attention_ops(). Internal to the family.
#pragma once

#include "graph/op.h"

namespace rhetor {

const OpDef& cache_write_op();  // attention_cache.cc
const OpDef& rope_op();         // attention_cache.cc

}  // namespace rhetor
