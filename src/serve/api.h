// The OpenAI-style bodies of completions: JSON in, JSON out, nothing else. Thread-safe (pure functions).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/batches.h"
#include "generate/generator.h"

namespace rhetor {

// A completion request, checked.
struct CompletionRequest {
  bool chat = false;
  std::string model;                                // "" = not named
  std::vector<ChatMessage> messages;                // chat
  std::vector<std::string> prompts;                 // otherwise: texts,
  std::vector<std::vector<TokenId>> token_prompts;  // or tokens of the model
  Sampling sampling;
  bool max_tokens_given = false;
  bool stream = false, include_usage = false;
  bool echo = false;     // the answer begins with the prompt
  double timeout_s = 0;  // 0 = as long as the service allows
};

// The most answers that one request may ask for (prompts times n).
constexpr std::int64_t kMaxAnswers = 128;

// Fails with Error{invalid} naming the field, what was expected and what was found. Fields of OpenAI's that would change the
// answer and are not supported (tools, response_format, ...) fail too; those that would not, and unknown ones, are ignored.
CompletionRequest parse_completion(std::string_view body, bool chat);

// What identifies one reply: "chatcmpl-...", its creation time, the model.
struct ReplyId {
  std::string id, model;
  std::int64_t created = 0;
  bool chat = false;
};
ReplyId new_reply_id(const std::string& model, bool chat);
// The same for other replies: "embd-...".
std::string new_id(std::string_view prefix);

// One answer among those to a request.
struct CompletionChoice {
  std::int64_t index = 0;
  std::string text;
  std::vector<TokenLogprob> logprobs;
  std::string finish;  // "stop", "length", "deadline"
};
struct Usage {
  std::int64_t prompt_tokens = 0, completion_tokens = 0;
};

// `tokenizer` spells the tokens of log-probabilities; null if there are none.
std::string completion_json(const ReplyId& id, std::span<const CompletionChoice> answers, const Usage& usage,
                            const Tokenizer* tokenizer);
// Server-sent events: the opening (chat only: the role), one piece of an answer, its end, the usage if asked for, and "[DONE]".
std::string stream_open(const ReplyId& id, std::int64_t index);
std::string stream_piece(const ReplyId& id, std::int64_t index, std::string_view piece);
std::string stream_piece(const ReplyId& id, std::int64_t index, std::string_view piece, std::span<const TokenLogprob> logprobs,
                         const Tokenizer& tokenizer);
std::string stream_finish(const ReplyId& id, std::int64_t index, std::string_view finish);
std::string stream_usage(const ReplyId& id, const Usage& usage);
std::string stream_error(std::string_view message);
constexpr std::string_view kStreamDone = "data: [DONE]\n\n";

// {"error": {...}} with OpenAI's field names.
std::string error_json(std::string_view message, std::string_view type, std::string_view code = "");

}  // namespace rhetor
