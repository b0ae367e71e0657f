// Reading untrusted JSON with one-sentence errors. Internal to the room.
#pragma once

#include <nlohmann/json.hpp>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace rhetor {

using Json = nlohmann::json;

// Fails on what is not JSON, on nesting no tokenizer has, and on numbers no double can hold.
Json parse_json(std::string_view text, const std::string& name);

// A short quotation of untrusted text for a message.
std::string shown(std::string_view text);
std::string shown_json(const Json& value);

// An object of a tokenizer file and what to call it in messages: "tokenizer.json: normalizer 'Replace'".
class JsonPart {
 public:
  JsonPart(const Json& object, std::string where);
  const std::string& where() const { return where_; }
  const Json& json() const { return json_; }
  std::string type() const { return text("type"); }
  bool given(const char* key) const;                 // there and not null
  const Json& need(const char* key) const;
  std::string text(const char* key) const;           // required
  std::string text(const char* key, std::string otherwise) const;
  bool flag(const char* key, bool otherwise) const;
  std::int64_t integer(const char* key, std::int64_t low, std::int64_t high) const;
  const Json& list(const char* key) const;           // required
  std::string character(const char* key) const;      // one character, in UTF-8

 private:
  const Json& json_;
  std::string where_;
};

}  // namespace rhetor
