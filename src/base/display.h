// Values as people read them, texts as browsers do.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace rhetor {

// Of files and texts, in powers of 1000: "3.83 MB".
std::string human_bytes(std::uint64_t bytes);
// Of memory and caches, in powers of 1024: "1.5 MiB".
std::string memory_bytes(double bytes);
// For HTML and SVG, attributes included. Control characters, which XML has no way to write, become '?'.
std::string html_escape(std::string_view text);

}  // namespace rhetor
