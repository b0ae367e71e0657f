// Worlds of ranks for tests: every backend that runs inside one process.
#pragma once

#include <gmock/gmock.h>

#include <functional>
#include <thread>

#include "comm/host_communicator.h"
#include "comm/loopback.h"
#include "comm/tcp.h"

namespace rhetor {

using World = std::function<void(int, const std::function<void(Communicator&)>&, const CommOptions&)>;

// A port that was free a moment ago.
inline int free_port() { return port_of(listen_on(0)); }

// Ranks as threads that talk over TCP on this machine; like run_loopback.
inline void run_tcp(int ranks, const std::function<void(Communicator&)>& body, const CommOptions& options = {}) {
  const SocketAddress master{"127.0.0.1", free_port()};
  std::vector<std::thread> threads;
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(ranks));
  for (int r = 0; r < ranks; ++r)
    threads.emplace_back([&, r] {
      try {
        const auto communicator = world_of(tcp_transport(meet(master, r, ranks, options), r, ranks, options));
        body(*communicator);
      } catch (...) {
        errors[static_cast<std::size_t>(r)] = std::current_exception();
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

// What each rank's body failed with ("" if it did not), for bodies that are meant to fail.
inline std::vector<std::string> errors_of(const World& run, int ranks, const std::function<void(Communicator&)>& body, const CommOptions& options) {
  std::vector<std::string> errors(static_cast<std::size_t>(ranks));
  run(ranks, [&](Communicator& c) {
    try {
      body(c);
    } catch (const std::exception& error) {
      errors[static_cast<std::size_t>(c.rank())] = error.what();
    }
  }, options);
  return errors;
}

}  // namespace rhetor
