#include "serve/json_fields.h"

#include "base/error.h"

namespace rhetor {

Body parse_object(std::string_view text) {
  Body json;
  try {
    json = Body::parse(text);
  } catch (const Body::exception& error) {
    fail("the body is not JSON: {}", std::string(error.what()).substr(0, 200));  // it quotes the text it stumbled over
  }
  if (!json.is_object()) fail("the body must be a JSON object, found {}", json.type_name());
  return json;
}

const Body* field(const Body& body, const char* name) {
  const auto at = body.find(name);
  return at == body.end() || at->is_null() ? nullptr : &*at;
}

double number(const Body& body, const char* name, double fallback, double low, double high) {
  const Body* at = field(body, name);
  if (!at) return fallback;
  if (!at->is_number()) fail("'{}' must be a number, found {}", name, at->type_name());
  const double value = at->get<double>();
  if (!(value >= low && value <= high)) fail("'{}' must be between {} and {}, found {}", name, low, high, value);
  return value;
}

std::int64_t integer(const Body& body, const char* name, std::int64_t fallback, std::int64_t low, std::int64_t high) {
  const Body* at = field(body, name);
  if (!at) return fallback;
  if (!at->is_number_integer()) fail("'{}' must be an integer, found {}", name, at->type_name());
  if (at->is_number_unsigned() && at->get<std::uint64_t>() > static_cast<std::uint64_t>(high))
    fail("'{}' must be between {} and {}, found {}", name, low, high, at->get<std::uint64_t>());
  const auto value = at->get<std::int64_t>();
  if (value < low || value > high) fail("'{}' must be between {} and {}, found {}", name, low, high, value);
  return value;
}

bool boolean(const Body& body, const char* name, bool fallback) {
  const Body* at = field(body, name);
  if (!at) return fallback;
  if (!at->is_boolean()) fail("'{}' must be true or false, found {}", name, at->type_name());
  return at->get<bool>();
}

std::string text(const Body& body, const char* name, const std::string& fallback) {
  const Body* at = field(body, name);
  if (!at) return fallback;
  if (!at->is_string()) fail("'{}' must be a string, found {}", name, at->type_name());
  return at->get<std::string>();
}

std::string required_text(const Body& body, const char* name) {
  const Body* at = field(body, name);
  if (!at) fail("'{}' is missing", name);
  std::string out = text(body, name);
  if (out.empty()) fail("'{}' is an empty string", name);
  return out;
}

double timeout_of(const Body& body) { return number(body, "timeout", 0, 0.001, 86400); }
std::string model_of(const Body& body) { return text(body, "model"); }

std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }
std::string json_quoted(std::string_view text) { return dump(Json(text)); }

}  // namespace rhetor
