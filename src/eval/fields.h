// Where text, pair and label stand in the files that everybody has: GLUE's tables, STS-B, SICK, MRPC, TrecQA.
#pragma once

#include <string>
#include <string_view>

#include "data/examples.h"

namespace rhetor {

// What `given` leaves empty, guessed from the first line of the file (its heading, the keys of its first record, or the number of
// columns in STS-B's and CoLA's tables, which have no heading). Fields that nothing is known about stay empty: the reader then
// looks for the usual names and says what it misses.
ExampleFields guess_fields(const std::string& path, std::string_view kind, ExampleFields given);

}  // namespace rhetor
