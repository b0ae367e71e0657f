// The version, in one place (CMake's project() version is checked against it by the release bundle).
#pragma once

#include <string_view>

namespace rhetor {

inline constexpr std::string_view kVersion = "0.1.0";

}  // namespace rhetor
