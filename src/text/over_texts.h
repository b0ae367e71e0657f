// Work on many texts, on all cores. Internal to the room.
#pragma once

#include <cstddef>
#include <functional>

namespace rhetor {

// Calls each(i) for i < count, in any order; the first exception ends it and is thrown again.
void over_texts(std::size_t count, const std::function<void(std::size_t)>& each);

}  // namespace rhetor
