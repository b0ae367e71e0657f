#include "text/json_reader.h"

#include "text/unicode.h"
#include "text/utf8.h"

namespace rhetor {
namespace {
constexpr int kMaxDepth = 32;
}

Json parse_json(std::string_view text, const std::string& name) {
  const auto guard = [&](int depth, Json::parse_event_t, Json&) {
    if (depth > kMaxDepth) fail("{}: brackets are nested deeper than {} levels, which no tokenizer file is", name, kMaxDepth);
    return true;
  };
  try {
    return Json::parse(text, guard);
  } catch (const Json::parse_error& error) {
    fail("{}: not valid JSON near byte {}; the file is damaged or is something else", name, error.byte);
  } catch (const Json::out_of_range&) {   // the parser's word for a number no double can hold
    fail("{}: holds a number too large to be one; the file is damaged or is something else", name);
  }
}

std::string shown(std::string_view text) {
  const std::size_t end = utf8_cut(text, 40);
  return Json(std::string(text.substr(0, end))).dump(-1, ' ', true, Json::error_handler_t::replace) + (end < text.size() ? "..." : "");
}

std::string shown_json(const Json& value) { return shown(value.dump(-1, ' ', false, Json::error_handler_t::replace)); }

JsonPart::JsonPart(const Json& object, std::string where) : json_(object), where_(std::move(where)) {
  if (!json_.is_object()) fail("{} must be an object, found {}", where_, json_.type_name());
  const auto type = json_.find("type");
  if (type != json_.end() && type->is_string()) where_ += " " + shown(type->get_ref<const std::string&>());
}

bool JsonPart::given(const char* key) const {
  const auto found = json_.find(key);
  return found != json_.end() && !found->is_null();
}

const Json& JsonPart::need(const char* key) const {
  const auto found = json_.find(key);
  if (found == json_.end()) fail("{} has no '{}'", where_, key);
  return *found;
}

std::string JsonPart::text(const char* key) const {
  const Json& value = need(key);
  if (!value.is_string()) fail("{}: '{}' must be a text, found {}", where_, key, shown_json(value));
  return value.get<std::string>();
}

std::string JsonPart::text(const char* key, std::string otherwise) const { return given(key) ? text(key) : std::move(otherwise); }

bool JsonPart::flag(const char* key, bool otherwise) const {
  if (!given(key)) return otherwise;
  const Json& value = need(key);
  if (!value.is_boolean()) fail("{}: '{}' must be true or false, found {}", where_, key, shown_json(value));
  return value.get<bool>();
}

std::int64_t JsonPart::integer(const char* key, std::int64_t low, std::int64_t high) const {
  const Json& value = need(key);
  if (!value.is_number_integer() || value < low || value > high)
    fail("{}: '{}' must be an integer from {} to {}, found {}", where_, key, low, high, shown_json(value));
  return value.get<std::int64_t>();
}

const Json& JsonPart::list(const char* key) const {
  const Json& value = need(key);
  if (!value.is_array()) fail("{}: '{}' must be a list, found {}", where_, key, value.type_name());
  return value;
}

std::string JsonPart::character(const char* key) const {
  std::string value = text(key);
  if (value.empty() || code_point(value, 0).length != value.size())
    fail("{}: '{}' must be one character, found {}", where_, key, shown(value));
  return value;
}

}  // namespace rhetor
