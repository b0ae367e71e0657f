// The OpenAI-style request and reply bodies: JSON in, JSON out, nothing else. Thread-safe (pure functions).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/batches.h"
#include "generate/generator.h"

namespace rhetor {

// A completion request, checked.
struct CompletionRequest {
  bool chat = false;
  std::string model;                 // "" = not named
  std::string prompt;                // the whole chat rendered, or the plain prompt
  std::vector<ChatMessage> messages; // chat: what `prompt` was rendered from
  bool specials = false;             // the prompt holds special tokens of ours (chat)
  Sampling sampling;
  bool max_tokens_given = false;
  bool stream = false, include_usage = false;
};

// Fails with Error{invalid} naming the field, what was expected and what was found. Fields of OpenAI's that would change the answer and
// are not supported (tools, logprobs, response_format, penalties, ...) fail too; those that would not are ignored.
CompletionRequest parse_completion(std::string_view body, bool chat);

// What identifies one reply: "chatcmpl-...", its creation time, the model.
struct ReplyId {
  std::string id, model;
  std::int64_t created = 0;
  bool chat = false;
};
ReplyId new_reply_id(const std::string& model, bool chat);

std::string completion_json(const ReplyId& id, const Generation& result);
// Server-sent events: the opening (chat only: the role), one piece of text, and the end with "[DONE]".
std::string stream_open(const ReplyId& id);
std::string stream_piece(const ReplyId& id, std::string_view piece);
std::string stream_end(const ReplyId& id, const Generation& result, bool include_usage);
std::string stream_error(std::string_view message);

// {"error": {...}} with OpenAI's field names.
std::string error_json(std::string_view message, std::string_view type, std::string_view code = "");
std::string models_json(const std::string& model, std::int64_t created);
std::string health_json(const std::string& model, int running, int waiting);

}  // namespace rhetor
