// Completion requests: from a body to a CompletionRequest.
#include <algorithm>
#include <charconv>
#include <random>

#include "base/error.h"
#include "serve/api.h"
#include "serve/json_fields.h"

namespace rhetor {
namespace {

constexpr std::size_t kMaxPrompts = 128;

// A message's content: a string, or OpenAI's list of {"type": "text", "text": ...} parts.
std::string content_of(const Body& message, std::size_t index) {
  const auto at = message.find("content");
  if (at == message.end()) fail("'messages[{}].content' is missing", index);
  if (at->is_string()) return at->get<std::string>();
  if (!at->is_array()) fail("'messages[{}].content' must be a string or a list of text parts, found {}", index, at->type_name());
  std::string out;
  for (const Body& part : *at) {
    if (!part.is_object() || !part.contains("type") || part["type"] != "text" || !part.contains("text") ||
        !part["text"].is_string())
      fail("'messages[{}].content' holds a part that is not {{\"type\": \"text\", \"text\": ...}}; only text is supported",
           index);
    out += part["text"].get<std::string>();
  }
  return out;
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
    if (name == "developer") name = "system";  // OpenAI's newer word for it
    if (name != "system" && name != "user" && name != "assistant")
      fail("'messages[{}].role' must be \"system\", \"user\" or \"assistant\"; '{}' is unknown", i, name.substr(0, 40));
    messages.push_back({name, content_of(message, i)});
  }
  return messages;
}

std::vector<TokenId> token_list(const Body& list) {
  std::vector<TokenId> out;
  for (const Body& item : list) {
    if (!item.is_number_integer() || item < 0 || item > INT32_MAX)
      fail("'prompt' holds a list of tokens with an item that is not a token id");
    out.push_back(item.get<TokenId>());
  }
  if (out.empty()) fail("'prompt' holds an empty list of tokens");
  return out;
}

// OpenAI's four forms: a text, a list of texts, the tokens of a text, a list of those.
void read_prompts(const Body& body, CompletionRequest& request) {
  const auto at = body.find("prompt");
  if (at == body.end()) fail("'prompt' is missing");
  if (at->is_string()) return request.prompts.push_back(at->get<std::string>());
  if (!at->is_array() || at->empty()) fail("'prompt' must be a string, a list of strings, or tokens");
  if ((*at)[0].is_number()) return request.token_prompts.push_back(token_list(*at));
  if (at->size() > kMaxPrompts) fail("'prompt' has {} items, at most {} are allowed", at->size(), kMaxPrompts);
  for (const Body& item : *at) {
    if (item.is_string() && request.token_prompts.empty())
      request.prompts.push_back(item.get<std::string>());
    else if (item.is_array() && request.prompts.empty())
      request.token_prompts.push_back(token_list(item));
    else
      fail("'prompt' must be a string, a list of strings, or tokens; one of its items is {}", item.type_name());
  }
}

// Fields that would change the answer but are not supported: better an error than another answer than was asked for. A value that
// asks for nothing (null, false, 0, an empty list or what is the default anyway) is fine.
void refuse_unsupported(const Body& body) {
  const auto asked = [&body](const char* name) -> const Body* {
    const Body* at = field(body, name);
    if (!at || (at->is_boolean() && !at->get<bool>())) return nullptr;
    if ((at->is_structured() && at->empty()) || (at->is_string() && at->get_ref<const std::string&>().empty())) return nullptr;
    return at;
  };
  for (const char* name : {"tools", "functions", "audio", "modalities", "suffix"}) {
    const Body* value = asked(name);
    if (value && !(std::string_view(name) == "modalities" && *value == Body::array({"text"})))
      fail("'{}' is not supported by this service; leave it out", name);
  }
  if (const Body* value = asked("tool_choice"); value && *value != "none" && *value != "auto")
    fail("'tool_choice' is not supported by this service; leave it out");
  if (const Body* value = asked("response_format")) {
    if (!value->is_object() || !value->contains("type") || (*value)["type"] != "text")
      fail("'response_format' must be {{\"type\": \"text\"}}; others are not supported by this service");
  }
}

// {"50256": -100}: token ids as text, since JSON has no other keys.
void read_bias(const Body& body, Sampling& sampling) {
  const Body* bias = field(body, "logit_bias");
  if (!bias) return;
  if (!bias->is_object()) fail("'logit_bias' must be an object of token ids and numbers, found {}", bias->type_name());
  if (bias->size() > 1024) fail("'logit_bias' names {} tokens, at most 1024 are allowed", bias->size());
  for (const auto& [key, value] : bias->items()) {
    TokenId id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0)
      fail("'logit_bias' has the key '{}', which is not a token id", key.substr(0, 40));
    if (!value.is_number()) fail("'logit_bias' of token {} must be a number, found {}", id, value.type_name());
    const double amount = value.get<double>();
    if (!(amount >= -100 && amount <= 100)) fail("'logit_bias' of token {} must be between -100 and 100, found {}", id, amount);
    sampling.logit_bias[id] = amount;
  }
}

void read_stop(const Body& body, Sampling& sampling) {
  const Body* at = field(body, "stop");
  if (!at) return;
  const auto add = [&sampling](const Body& item) {
    if (!item.is_string() || item.get_ref<const std::string&>().empty())
      fail("'stop' must be a non-empty string or a list of them");
    sampling.stop.push_back(item.get<std::string>());
  };
  if (at->is_array() && at->size() > 16) fail("'stop' has {} strings, at most 16 are allowed", at->size());
  if (at->is_array())
    std::for_each(at->begin(), at->end(), add);
  else
    add(*at);
}

// Chat says "logprobs": true and "top_logprobs": n; completions say "logprobs": n.
void read_logprobs(const Body& body, bool chat, Sampling& sampling) {
  if (chat) {
    sampling.logprobs = boolean(body, "logprobs");
    sampling.top_logprobs = integer(body, "top_logprobs", 0, 0, 20);
    if (sampling.top_logprobs > 0 && !sampling.logprobs)
      fail("'top_logprobs' is {}, but 'logprobs' is not true", sampling.top_logprobs);
  } else if (const Body* at = field(body, "logprobs"); at && !(at->is_boolean() && !at->get<bool>())) {
    sampling.logprobs = true;
    sampling.top_logprobs = integer(body, "logprobs", 0, 0, 20);
  }
}

void read_sampling(const Body& body, bool chat, CompletionRequest& request) {
  Sampling& s = request.sampling;
  s.temperature = number(body, "temperature", 1.0, 0, 2);
  s.top_p = number(body, "top_p", 1.0, 0, 1);
  s.top_k = integer(body, "top_k", 0, 0, 1 << 20);
  s.min_p = number(body, "min_p", 0, 0, 1);
  s.repetition_penalty = number(body, "repetition_penalty", 1, 0.1, 10);
  s.presence_penalty = number(body, "presence_penalty", 0, -2, 2);
  s.frequency_penalty = number(body, "frequency_penalty", 0, -2, 2);
  s.n = integer(body, "n", 1, 1, kMaxAnswers);
  s.beams = integer(body, "beams", 1, 1, 64);
  s.length_penalty = number(body, "length_penalty", 1, -10, 10);
  s.early_stopping = boolean(body, "early_stopping");
  s.seed =
      static_cast<std::uint64_t>(integer(body, "seed", static_cast<std::int64_t>(std::random_device{}()), INT64_MIN, INT64_MAX));
  const std::int64_t wanted = integer(body, "max_completion_tokens", integer(body, "max_tokens", 0, 1, 1 << 30), 1, 1 << 30);
  request.max_tokens_given = wanted > 0;
  s.max_tokens = wanted > 0 ? wanted : 256;
  read_bias(body, s);
  read_stop(body, s);
  read_logprobs(body, chat, s);
  if (integer(body, "best_of", s.n, 1, 1 << 20) != s.n)
    fail("'best_of' must be {}, as 'n' is; for a search among answers use 'beams'", s.n);
  s.validate();
}

}  // namespace

CompletionRequest parse_completion(std::string_view body, bool chat) {
  const Body json = parse_object(body);
  CompletionRequest request;
  request.chat = chat;
  request.model = model_of(json);
  request.timeout_s = timeout_of(json);
  refuse_unsupported(json);
  if (chat)
    request.messages = chat_messages(json);
  else
    read_prompts(json, request);
  read_sampling(json, chat, request);
  request.stream = boolean(json, "stream");
  if (const Body* at = field(json, "stream_options")) {
    if (!at->is_object()) fail("'stream_options' must be an object, found {}", at->type_name());
    request.include_usage = boolean(*at, "include_usage");
  }
  request.echo = !chat && boolean(json, "echo");
  if (request.echo && request.sampling.logprobs)
    fail("'echo' together with 'logprobs' is not supported by this service; leave one of them out");
  const auto prompts = static_cast<std::int64_t>(std::max<std::size_t>(1, request.prompts.size() + request.token_prompts.size()));
  if (prompts * request.sampling.n > kMaxAnswers)
    fail("{} prompts with 'n' {} ask for {} answers, at most {} are allowed in one request", prompts, request.sampling.n,
         prompts * request.sampling.n, kMaxAnswers);
  return request;
}

}  // namespace rhetor
