#include "tensor/dtype.h"

#include <string>

#include "base/error.h"

namespace rhetor {

DType parse_dtype(std::string_view text) {
  std::string known;
  for (std::size_t i = 0; i < kDTypes.size(); ++i) {
    if (kDTypes[i].name == text) return static_cast<DType>(i);
    known += known.empty() ? "" : ", ";
    known += kDTypes[i].name;
  }
  fail("'{}' is not a dtype; the dtypes are {}", text, known);
}

}  // namespace rhetor
