// Ranks as threads of one process: messages are read where the sender has them.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "comm/transport.h"

namespace rhetor {

// The transports of `ranks` ranks that know each other.
std::vector<std::shared_ptr<Transport>> loopback_transports(int ranks, const CommOptions& options = {});

// Calls body(communicator) on `ranks` threads, rank r with the r-th communicator of a new world, and waits for all. An exception of
// one rank fails the others' collectives; the first exception is thrown on.
void run_loopback(int ranks, const std::function<void(Communicator&)>& body, const CommOptions& options = {});

}  // namespace rhetor
