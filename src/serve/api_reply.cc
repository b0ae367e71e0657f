// Replies to completion requests, and errors.
#include <atomic>
#include <chrono>
#include <random>

#include "base/error.h"
#include "serve/api.h"
#include "serve/json_fields.h"
#include "text/utf8.h"

namespace rhetor {
namespace {

Json usage_json(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens}};
}

Json envelope(const ReplyId& id, bool chunk) {
  return {{"id", id.id},
          {"object", id.chat ? (chunk ? "chat.completion.chunk" : "chat.completion") : "text_completion"},
          {"created", id.created},
          {"model", id.model}};
}

std::string event(const Json& json) { return "data: " + dump(json) + "\n\n"; }

// A token may hold part of a character: its bytes are given besides what of it is text.
Json token_json(TokenId id, double logprob, const Tokenizer& tokenizer) {
  const std::string bytes = tokenizer.token_bytes(id);
  Json list = Json::array();
  for (const char c : bytes) list.push_back(static_cast<unsigned char>(c));
  return {{"token", utf8_cleaned(bytes)}, {"logprob", logprob}, {"bytes", std::move(list)}};
}

// OpenAI's two shapes: for chat a list of tokens, for completions parallel lists.
Json logprobs_json(bool chat, std::span<const TokenLogprob> tokens, const Tokenizer* tokenizer) {
  if (tokens.empty() || !tokenizer) return nullptr;
  if (chat) {
    Json content = Json::array();
    for (const TokenLogprob& token : tokens) {
      Json entry = token_json(token.id, token.logprob, *tokenizer);
      entry["top_logprobs"] = Json::array();
      for (const auto& [id, logprob] : token.top) entry["top_logprobs"].push_back(token_json(id, logprob, *tokenizer));
      content.push_back(std::move(entry));
    }
    return {{"content", std::move(content)}, {"refusal", nullptr}};
  }
  Json words = Json::array(), values = Json::array(), tops = Json::array(), offsets = Json::array();
  std::size_t offset = 0;
  for (const TokenLogprob& token : tokens) {
    const std::string bytes = tokenizer->token_bytes(token.id);
    words.push_back(utf8_cleaned(bytes));
    values.push_back(token.logprob);
    Json top = Json::object();
    for (const auto& [id, logprob] : token.top) top[utf8_cleaned(tokenizer->token_bytes(id))] = logprob;
    tops.push_back(std::move(top));
    offsets.push_back(offset);
    offset += bytes.size();
  }
  return {{"tokens", std::move(words)},
          {"token_logprobs", std::move(values)},
          {"top_logprobs", std::move(tops)},
          {"text_offset", std::move(offsets)}};
}

std::string choice_event(const ReplyId& id, std::int64_t index, Json delta, std::string_view text, Json logprobs,
                         const Json& finish) {
  Json json = envelope(id, true);
  Json choice = {{"index", index}};
  if (id.chat)
    choice["delta"] = std::move(delta);
  else
    choice["text"] = text;
  choice["logprobs"] = std::move(logprobs);
  choice["finish_reason"] = finish;
  json["choices"] = Json::array({std::move(choice)});
  return event(json);
}

}  // namespace

std::string new_id(std::string_view prefix) {
  static std::atomic<std::uint64_t> counter{std::random_device{}()};
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return fmt::format("{}-{:x}{:08x}", prefix, std::chrono::duration_cast<std::chrono::microseconds>(now).count(),
                     static_cast<std::uint32_t>(counter.fetch_add(1)));
}

ReplyId new_reply_id(const std::string& model, bool chat) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return {new_id(chat ? "chatcmpl" : "cmpl"), model, std::chrono::duration_cast<std::chrono::seconds>(now).count(), chat};
}

std::string completion_json(const ReplyId& id, std::span<const CompletionChoice> answers, const Usage& usage,
                            const Tokenizer* tokenizer) {
  Json json = envelope(id, false);
  json["choices"] = Json::array();
  for (const CompletionChoice& answer : answers) {
    Json choice = {{"index", answer.index}};
    if (id.chat)
      choice["message"] = {{"role", "assistant"}, {"content", answer.text}, {"refusal", nullptr}};
    else
      choice["text"] = answer.text;
    choice["logprobs"] = logprobs_json(id.chat, answer.logprobs, tokenizer);
    choice["finish_reason"] = answer.finish;
    json["choices"].push_back(std::move(choice));
  }
  json["usage"] = usage_json(usage);
  return dump(json) + "\n";
}

std::string stream_open(const ReplyId& id, std::int64_t index) {
  return id.chat ? choice_event(id, index, {{"role", "assistant"}, {"content", ""}}, "", nullptr, nullptr) : "";
}

// The one that every token costs: written without building a document.
std::string stream_piece(const ReplyId& id, std::int64_t index, std::string_view piece) {
  return fmt::format(
      R"(data: {{"id":"{}","object":"{}","created":{},"model":{},"choices":[{{"index":{},{}{}{},"logprobs":null,"finish_reason":null}}]}})"
      "\n\n",
      id.id, id.chat ? "chat.completion.chunk" : "text_completion", id.created, json_quoted(id.model), index,
      id.chat ? R"("delta":{"content":)" : R"("text":)", json_quoted(piece), id.chat ? "}" : "");
}

std::string stream_piece(const ReplyId& id, std::int64_t index, std::string_view piece, std::span<const TokenLogprob> logprobs,
                         const Tokenizer& tokenizer) {
  if (logprobs.empty()) return stream_piece(id, index, piece);
  return choice_event(id, index, {{"content", piece}}, piece, logprobs_json(id.chat, logprobs, &tokenizer), nullptr);
}

std::string stream_finish(const ReplyId& id, std::int64_t index, std::string_view finish) {
  return choice_event(id, index, Json::object(), "", nullptr, finish);
}

std::string stream_usage(const ReplyId& id, const Usage& usage) {
  Json json = envelope(id, true);
  json["choices"] = Json::array();
  json["usage"] = usage_json(usage);
  return event(json);
}

std::string stream_error(std::string_view message) { return "data: " + error_json(message, "server_error") + "\n"; }

std::string error_json(std::string_view message, std::string_view type, std::string_view code) {
  Json error = {{"message", message}, {"type", type}, {"param", nullptr}, {"code", nullptr}};
  if (!code.empty()) error["code"] = code;
  return dump(Json{{"error", error}}) + "\n";
}

}  // namespace rhetor
