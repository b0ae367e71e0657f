// Work on all threads that may fail. Internal to the room.
#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "text/tokenizer.h"

namespace rhetor {

// work(i) for every i in [0, count) on the default pool; rethrows the first failure (in order of i).
template <class Work>
void run_checked(std::int64_t count, Work&& work) {
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(count));
  default_pool().parallel_for(count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      try {
        work(i);
      } catch (...) {
        errors[static_cast<std::size_t>(i)] = std::current_exception();  // pool tasks must not throw
      }
    }
  });
  for (const auto& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

// Encodes in parallel, special tokens included, returns in order.
inline std::vector<std::vector<TokenId>> encode_documents(const std::vector<std::string>& documents, const Tokenizer& tokenizer) {
  std::vector<std::vector<TokenId>> out(documents.size());
  run_checked(static_cast<std::int64_t>(documents.size()), [&](std::int64_t i) {
    out[static_cast<std::size_t>(i)] = tokenizer.encode(documents[static_cast<std::size_t>(i)], true);
  });
  return out;
}

}  // namespace rhetor
