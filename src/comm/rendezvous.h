// How ranks that know only one address find each other: rank 0 listens there, the others tell it where they listen, it tells all, and
// every pair connects. Connections of strangers are dropped; nothing they send is believed, or waited for at the others' cost.
#pragma once

#include <string>
#include <vector>

#include "comm/socket.h"

namespace rhetor {

// Who a rank is, as errors name it.
struct RankPlace {
  std::string host;   // its machine's name
  int process = 0;
};
// Where the calling process runs.
RankPlace this_place();

struct Meeting {
  std::vector<Socket> links;       // to every rank; this one's is empty
  std::vector<RankPlace> places;   // of every rank
};

// Called by all ranks. Fails within options.rendezvous seconds with the ranks that have not come, two processes that claim one rank, or
// ranks that disagree on their number.
Meeting meet(const SocketAddress& master, int rank, int size, const CommOptions& options);

}  // namespace rhetor
