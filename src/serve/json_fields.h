// Reading the fields of a request body (internal): each fails with Error{invalid} naming the field, what was expected and what
// was found. Thread-safe (pure functions). No function copies a value that a client nested: copying recurses, and a body may nest
// as deep as it is long.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rhetor {

// What we read. Not an ordered_json: there a look-up is linear, so reading an object of many keys would be quadratic.
using Body = nlohmann::json;
// What we write.
using Json = nlohmann::ordered_json;

// One JSON object, or an error.
Body parse_object(std::string_view text);
// The field, unless it is missing or null.
const Body* field(const Body& body, const char* name);

double number(const Body& body, const char* name, double fallback, double low, double high);
std::int64_t integer(const Body& body, const char* name, std::int64_t fallback, std::int64_t low, std::int64_t high);
bool boolean(const Body& body, const char* name, bool fallback = false);
std::string text(const Body& body, const char* name, const std::string& fallback = {});
// A text that must be there and not be empty.
std::string required_text(const Body& body, const char* name);
// "timeout": seconds that the client is willing to wait; 0 = as long as the service allows.
double timeout_of(const Body& body);
// "model": "" = not named.
std::string model_of(const Body& body);

// One line of JSON text; bytes that are no UTF-8 are replaced.
std::string dump(const Json& json);
// `text` as a JSON string with its quotes.
std::string json_quoted(std::string_view text);

}  // namespace rhetor
