// Pieces of tokenizer.json as text, written by hand so that vocabularies keep the order of their ids. Internal to the room.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace rhetor {

std::string json_string(std::string_view text);                               // quoted; bytes that are no UTF-8 become U+FFFD
std::string json_number(double value);                                        // the shortest text that reads back as the same number
std::string json_vocabulary(const std::vector<std::string>& texts_by_id);     // {"token": id, ...}; "" is left out

}  // namespace rhetor
