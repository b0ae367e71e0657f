// The table of recipe keys, for what parses, writes and checks recipes. Internal to the room.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "train/trainer.h"

namespace rhetor {

struct RecipeKey {
  using Field = std::variant<std::string Recipe::*, std::int64_t Recipe::*, std::uint64_t Recipe::*, double Recipe::*,
                             std::vector<std::string> Recipe::*, std::vector<double> Recipe::*>;
  std::string_view section, name;
  Field field;
  double low, high;  // legal numbers, inclusive
  bool result;       // changes what training computes: must agree when a run is continued
  std::string_view doc;
  std::vector<std::string_view> choices = {};
};
const std::vector<RecipeKey>& recipe_keys();
std::string full_name(const RecipeKey& key);                                // "train.lr"
std::string value_text(const Recipe& recipe, const RecipeKey& key);         // as TOML

}  // namespace rhetor
