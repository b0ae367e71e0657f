#include "serve/api.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"

namespace rhetor {
namespace {

using Json = nlohmann::ordered_json;   // what we write
// What we read: looking up a key in an ordered_json is linear, so reading an object of many keys would be quadratic.
using Body = nlohmann::json;

std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

double number(const Body& body, const char* field, double fallback, double low, double high) {
  const auto at = body.find(field);
  if (at == body.end() || at->is_null()) return fallback;
  if (!at->is_number()) fail("'{}' must be a number, found {}", field, at->type_name());
  const double value = at->get<double>();
  if (!(value >= low && value <= high)) fail("'{}' must be between {} and {}, found {}", field, low, high, value);
  return value;
}

std::int64_t integer(const Body& body, const char* field, std::int64_t fallback, std::int64_t low, std::int64_t high) {
  const auto at = body.find(field);
  if (at == body.end() || at->is_null()) return fallback;
  if (!at->is_number_integer()) fail("'{}' must be an integer, found {}", field, at->type_name());
  if (at->is_number_unsigned() && at->get<std::uint64_t>() > static_cast<std::uint64_t>(high))
    fail("'{}' must be between {} and {}", field, low, high);
  const auto value = at->get<std::int64_t>();
  if (value < low || value > high) fail("'{}' must be between {} and {}, found {}", field, low, high, value);
  return value;
}

bool boolean(const Body& body, const char* field) {
  const auto at = body.find(field);
  if (at == body.end() || at->is_null()) return false;
  if (!at->is_boolean()) fail("'{}' must be true or false, found {}", field, at->type_name());
  return at->get<bool>();
}

// A message's content: a string, or OpenAI's list of {"type": "text", "text": ...} parts.
std::string content_of(const Body& message, std::size_t index) {
  const auto at = message.find("content");
  if (at == message.end()) fail("'messages[{}].content' is missing", index);
  if (at->is_string()) return at->get<std::string>();
  if (!at->is_array()) fail("'messages[{}].content' must be a string or a list of text parts, found {}", index, at->type_name());
  std::string text;
  for (const Body& part : *at) {
    if (!part.is_object() || !part.contains("type") || part["type"] != "text" || !part.contains("text") || !part["text"].is_string())
      fail("'messages[{}].content' holds a part that is not {{\"type\": \"text\", \"text\": ...}}; only text is supported", index);
    text += part["text"].get<std::string>();
  }
  return text;
}

std::vector<ChatMessage> chat_messages(const Body& body) {
  const auto at = body.find("messages");
  if (at == body.end() || !at->is_array() || at->empty()) fail("'messages' must be a list of at least one {{role, content}}");
  std::vector<ChatMessage> messages;
  for (std::size_t i = 0; i < at->size(); ++i) {
    const Body& message = (*at)[i];
    if (!message.is_object()) fail("'messages[{}]' must be an object with role and content, found {}", i, message.type_name());
    const auto role = message.find("role");
    if (role == message.end() || !role->is_string()) fail("'messages[{}].role' must be \"system\", \"user\" or \"assistant\"", i);
    std::string name = role->get<std::string>();
    if (name == "developer") name = "system";   // OpenAI's newer word for it
    messages.push_back({name, content_of(message, i)});
  }
  return messages;
}

std::string plain_prompt(const Body& body) {
  const auto at = body.find("prompt");
  if (at == body.end()) fail("'prompt' is missing");
  if (at->is_string()) return at->get<std::string>();
  if (at->is_array() && at->size() == 1 && (*at)[0].is_string()) return (*at)[0].get<std::string>();
  fail("'prompt' must be one string");
}

// Fields that would change the answer but are not supported: better an error than another answer than was asked for. A value that
// asks for nothing (null, false, 0, an empty list or what is the default anyway) is fine.
void refuse_unsupported(const Body& body) {
  const auto asked = [&body](const char* field) -> const Body* {
    const auto at = body.find(field);
    if (at == body.end() || at->is_null() || (at->is_boolean() && !at->get<bool>())) return nullptr;
    if ((at->is_structured() && at->empty()) || (at->is_string() && at->get_ref<const std::string&>().empty())) return nullptr;
    return &*at;
  };
  for (const char* field : {"tools", "functions", "logit_bias", "audio", "modalities", "suffix", "echo"}) {
    const Body* value = asked(field);
    if (value && !(std::string_view(field) == "modalities" && *value == Body::array({"text"})))
      fail("'{}' is not supported by this service; leave it out", field);
  }
  if (const Body* value = asked("tool_choice"); value && *value != "none" && *value != "auto")
    fail("'tool_choice' is not supported by this service; leave it out");
  if (asked("logprobs") || (asked("top_logprobs") && body["top_logprobs"] != 0))
    fail("'logprobs' are not supported by this service; leave them out");
  if (const Body* value = asked("response_format")) {
    if (!value->is_object() || !value->contains("type") || (*value)["type"] != "text")
      fail("'response_format' must be {{\"type\": \"text\"}}; others are not supported by this service");
  }
  for (const char* field : {"frequency_penalty", "presence_penalty"}) {
    if (number(body, field, 0, -2, 2) != 0) fail("'{}' must be 0; penalties are not supported by this service", field);
  }
  if (integer(body, "best_of", 1, 1, 1 << 20) != 1) fail("'best_of' must be 1: one answer a request");
}

Json usage(const Generation& result) {
  const auto completion = static_cast<std::int64_t>(result.tokens.size());
  return {{"prompt_tokens", result.prompt_tokens}, {"completion_tokens", completion}, {"total_tokens", result.prompt_tokens + completion}};
}

Json envelope(const ReplyId& id, bool chunk) {
  return {{"id", id.id},
          {"object", id.chat ? (chunk ? "chat.completion.chunk" : "chat.completion") : "text_completion"},
          {"created", id.created},
          {"model", id.model}};
}

std::string event(const Json& json) { return "data: " + dump(json) + "\n\n"; }

std::string piece_event(const ReplyId& id, Json delta, std::string_view text, const Json& finish) {
  Json json = envelope(id, true);
  Json choice = {{"index", 0}};
  if (id.chat) choice["delta"] = std::move(delta);
  else choice["text"] = text;
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = finish;
  json["choices"] = Json::array({choice});
  return event(json);
}

std::string finish_name(const Generation& result) { return result.finish == FinishReason::length ? "length" : "stop"; }

}  // namespace

CompletionRequest parse_completion(std::string_view body, bool chat) {
  Body json;
  try {
    json = Body::parse(body);
  } catch (const Body::exception& error) {
    fail("the body is not JSON: {}", std::string(error.what()).substr(0, 200));   // it quotes the text it stumbled over
  }
  if (!json.is_object()) fail("the body must be a JSON object, found {}", json.type_name());
  CompletionRequest request;
  request.chat = request.specials = chat;
  if (const auto at = json.find("model"); at != json.end() && !at->is_null()) {
    if (!at->is_string()) fail("'model' must be a string, found {}", at->type_name());
    request.model = at->get<std::string>();
  }
  refuse_unsupported(json);
  if (chat) request.messages = chat_messages(json);
  request.prompt = chat ? render_chat(request.messages, true) : plain_prompt(json);
  if (integer(json, "n", 1, 1, 1 << 20) != 1) fail("'n' must be 1: one answer a request");
  Sampling& s = request.sampling;
  s.temperature = number(json, "temperature", 1.0, 0, 2);
  s.top_p = number(json, "top_p", 1.0, 0, 1);
  s.top_k = integer(json, "top_k", 0, 0, 1 << 20);
  s.seed = static_cast<std::uint64_t>(integer(json, "seed", static_cast<std::int64_t>(std::random_device{}()), INT64_MIN, INT64_MAX));
  const std::int64_t wanted = integer(json, "max_completion_tokens", integer(json, "max_tokens", 0, 1, 1 << 30), 1, 1 << 30);
  request.max_tokens_given = wanted > 0;
  s.max_tokens = wanted > 0 ? wanted : 256;
  if (const auto at = json.find("stop"); at != json.end() && !at->is_null()) {
    // No copy of *at: copying recurses, and a body may nest as deep as it is long.
    const auto add = [&s](const Body& item) {
      if (!item.is_string() || item.get_ref<const std::string&>().empty()) fail("'stop' must be a non-empty string or a list of them");
      s.stop.push_back(item.get<std::string>());
    };
    if (at->is_array() && at->size() > 16) fail("'stop' has {} strings, at most 16 are allowed", at->size());
    if (at->is_array()) std::for_each(at->begin(), at->end(), add);
    else add(*at);
  }
  request.stream = boolean(json, "stream");
  if (const auto at = json.find("stream_options"); at != json.end() && !at->is_null()) {
    if (!at->is_object()) fail("'stream_options' must be an object, found {}", at->type_name());
    request.include_usage = boolean(*at, "include_usage");
  }
  s.validate();
  return request;
}

ReplyId new_reply_id(const std::string& model, bool chat) {
  static std::atomic<std::uint64_t> counter{std::random_device{}()};
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return {fmt::format("{}-{:x}{:08x}", chat ? "chatcmpl" : "cmpl", std::chrono::duration_cast<std::chrono::microseconds>(now).count(),
                      static_cast<std::uint32_t>(counter.fetch_add(1))),
          model, std::chrono::duration_cast<std::chrono::seconds>(now).count(), chat};
}

std::string completion_json(const ReplyId& id, const Generation& result) {
  Json json = envelope(id, false);
  Json choice = {{"index", 0}};
  if (id.chat) choice["message"] = {{"role", "assistant"}, {"content", result.text}, {"refusal", nullptr}};
  else choice["text"] = result.text;
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = finish_name(result);
  json["choices"] = Json::array({choice});
  json["usage"] = usage(result);
  return dump(json) + "\n";
}

std::string stream_open(const ReplyId& id) {
  return id.chat ? piece_event(id, {{"role", "assistant"}, {"content", ""}}, "", nullptr) : "";
}
std::string stream_piece(const ReplyId& id, std::string_view piece) { return piece_event(id, {{"content", piece}}, piece, nullptr); }

std::string stream_end(const ReplyId& id, const Generation& result, bool include_usage) {
  std::string out = piece_event(id, Json::object(), "", finish_name(result));
  if (include_usage) {
    Json json = envelope(id, true);
    json["choices"] = Json::array();
    json["usage"] = usage(result);
    out += event(json);
  }
  return out + "data: [DONE]\n\n";
}

std::string stream_error(std::string_view message) {
  return "data: " + error_json(message, "server_error") + "\ndata: [DONE]\n\n";
}

std::string error_json(std::string_view message, std::string_view type, std::string_view code) {
  Json error = {{"message", message}, {"type", type}, {"param", nullptr}, {"code", nullptr}};
  if (!code.empty()) error["code"] = code;
  return dump(Json{{"error", error}}) + "\n";
}

std::string models_json(const std::string& model, std::int64_t created) {
  return dump({{"object", "list"},
               {"data", Json::array({{{"id", model}, {"object", "model"}, {"created", created}, {"owned_by", "rhetor"}}})}}) +
         "\n";
}

std::string health_json(const std::string& model, int running, int waiting) {
  return dump({{"status", "ok"}, {"model", model}, {"running", running}, {"waiting", waiting}}) + "\n";
}

}  // namespace rhetor
