// A node's place in an array over the nodes of a graph.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rhetor {

inline std::size_t at(std::int32_t node) { return static_cast<std::size_t>(node); }

}  // namespace rhetor
