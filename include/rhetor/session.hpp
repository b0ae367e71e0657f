// A graph in text form, compiled and run. Thread-safety: one thread at a time.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "rhetor/error.hpp"

namespace rhetor::api {

class Session {
 public:
  explicit Session(const std::string& graph_text) {
    rhetor_session* handle = nullptr;
    require(rhetor_session_open(graph_text.c_str(), &handle));
    handle_.reset(handle);
  }
  // Element type and count must be those of the named input, param or state.
  template <class T>
  void set(const std::string& name, const std::vector<T>& values) {
    require(rhetor_session_set(handle_.get(), name.c_str(), values.data(), values.size() * sizeof(T)));
  }
  void run() { require(rhetor_session_run(handle_.get())); }
  template <class T>
  std::vector<T> get(const std::string& name, std::size_t count) {
    std::vector<T> out(count);
    require(rhetor_session_get(handle_.get(), name.c_str(), out.data(), count * sizeof(T)));
    return out;
  }

 private:
  struct Close {
    void operator()(rhetor_session* session) const { rhetor_session_close(session); }
  };
  std::unique_ptr<rhetor_session, Close> handle_;
};

}  // namespace rhetor::api
