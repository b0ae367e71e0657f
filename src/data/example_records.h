// The JSON forms of examples. Internal to the room.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "data/examples.h"

namespace rhetor {

// `lines`: one object a line; otherwise one value: a list of objects, or SQuAD's {"data": [...]}.
void read_records(const std::string& text, const std::string& file, bool lines, std::string_view kind,
                  const ExampleFields& fields, std::vector<Example>& out);
// Sets e.right from e.label: the text of a choice, its letter, or its number from 0. Fails naming `where`.
void find_right_choice(Example& e, const std::string& where);

}  // namespace rhetor
