// The algorithms, over any transport. Every rank owns a part of the elements: it gets that part from all others, combines them in rank
// order and gives the result back. A rank sends and receives as much as in a ring, 2 (n - 1) / n of the buffer for an all_reduce, in two
// rounds instead of 2 (n - 1), and narrow floats travel narrow although they are summed in f32.
// Long buffers go in segments, the next one under way while one is combined.
#pragma once

#include "comm/group.h"

namespace rhetor {

// REQUIRES: the collective was checked on all ranks, the group has more than one.
void run_collective(const Running& running);

}  // namespace rhetor
