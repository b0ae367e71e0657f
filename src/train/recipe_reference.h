// The reference page of recipe keys.
#pragma once

#include <string>

namespace rhetor {

// The content of docs/recipes.md: every key with its meaning, range and default, from the table that also parses.
std::string recipe_reference();

}  // namespace rhetor
