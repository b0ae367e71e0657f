// The start of every collective: the ranks tell each other what they are about to do.
#pragma once

#include "comm/group.h"

namespace rhetor {

// Seconds each rank of the group came after this one; not positive: it was here first, or takes no part.
using Arrivals = std::vector<double>;

// Waits for all ranks of the collective (for the partner alone in a send or recv) and fails on all of them if they do not agree, with a
// sentence that is the same everywhere. Names late ranks in the log after options().warn_after.
Arrivals check_in(const Running& running);

void add_arrivals(const Arrivals& arrivals, const std::string& tensor, WaitStats& waits);

}  // namespace rhetor
