// Errors of the C++ interface: every failing call throws rhetor::api::Error with the library's sentence.
#pragma once

#include <stdexcept>
#include <string>

#include "rhetor/rhetor.h"

namespace rhetor::api {

class Error : public std::runtime_error {
 public:
  explicit Error(rhetor_status status) : std::runtime_error(rhetor_last_error()), status_(status) {}
  rhetor_status status() const { return status_; }

 private:
  rhetor_status status_;
};

inline void require(rhetor_status status) {
  if (status != RHETOR_OK) throw Error(status);
}

}  // namespace rhetor::api
