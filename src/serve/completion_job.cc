#include "serve/completion_job.h"

#include "base/error.h"
#include "base/log.h"
#include "serve/worker.h"

namespace rhetor {
namespace {

// While more than this waits for a client, further pieces are put together: an event has a hundred times the size of its text.
constexpr std::int64_t kBacklog = 16 << 10;  // bytes

// Pieces that waited for a client too slow to take them: what of it counts against the connection's limit.
std::size_t cost(std::string_view text, std::size_t logprobs) { return text.size() + 64 * logprobs; }
constexpr std::size_t kHeld = 1 << 20;  // bytes

}  // namespace

void CompletionJob::open_stream(std::size_t answer) {
  if (!streaming_) {
    streaming_ = true;
    reply->begin_stream("text/event-stream");
  }
  held_.resize(answers());
  if (held_[answer].opened) return;
  held_[answer].opened = true;
  const auto index = static_cast<std::int64_t>(answer);
  reply->write(stream_open(id, index));
  if (request.echo && !request.prompts.empty())
    reply->write(stream_piece(id, index, request.prompts[answer / static_cast<std::size_t>(request.sampling.n)]));
}

void CompletionJob::write(std::size_t answer) {
  Held& held = held_[answer];
  if (held.text.empty() && held.logprobs.empty()) return;
  reply->write(stream_piece(id, static_cast<std::int64_t>(answer), held.text, held.logprobs, *tokenizer));
  held.text.clear();
  held.logprobs.clear();
}

bool CompletionJob::piece(std::size_t prompt, const TextPiece& piece) {
  ++tokens_;
  if (finished || reply->closed()) return false;
  if (!request.stream) return true;
  const std::size_t answer = prompt * static_cast<std::size_t>(request.sampling.n) + static_cast<std::size_t>(piece.index);
  open_stream(answer);
  Held& held = held_[answer];
  held.text += piece.text;
  held.logprobs.insert(held.logprobs.end(), piece.logprobs.begin(), piece.logprobs.end());
  if (reply->backlog() < kBacklog)
    write(answer);
  else if (cost(held.text, held.logprobs.size()) > kHeld)
    write(answer);  // beyond what a connection may hold: it is dropped there
  return true;
}

void CompletionJob::done(std::size_t prompt, const Generation& result, ModelMetrics& metrics) {
  const auto tokens = static_cast<std::int64_t>(result.tokens.size());
  metrics.output_tokens.add(static_cast<double>(tokens));
  if (finished || reply->closed()) return;  // nobody is there: the worker gives the rest up
  const std::size_t answer = prompt * static_cast<std::size_t>(request.sampling.n) + static_cast<std::size_t>(result.index);
  const std::string finish(late && result.finish == FinishReason::cancelled ? "deadline"
                           : result.finish == FinishReason::length          ? "length"
                                                                            : "stop");
  if (result.index == 0) usage_.prompt_tokens += result.prompt_tokens;
  usage_.completion_tokens += tokens;
  tokens_ += tokens;
  if (tokens > 0) metrics.first_token_seconds.observe(seconds_between(accepted, started) + 1e-3 * result.first_token_ms);
  if (tokens > 1)
    metrics.token_seconds.observe(1e-3 * (result.total_ms - result.first_token_ms) / static_cast<double>(tokens - 1));
  note.finish = finish;
  if (request.stream) {
    open_stream(answer);
    write(answer);
    reply->write(stream_finish(id, static_cast<std::int64_t>(answer), finish));
  } else {
    choices_.resize(answers());
    choices_[answer] = {static_cast<std::int64_t>(answer), result.text, result.logprobs, finish};
    if (request.echo && prompt < request.prompts.size()) choices_[answer].text.insert(0, request.prompts[prompt]);
  }
  if (++complete_ == answers()) complete();
}

void CompletionJob::complete() {
  finished = true;
  note.prompt_tokens = usage_.prompt_tokens;
  note.output_tokens = usage_.completion_tokens;
  reply->note(note);
  if (!request.stream) return reply->send(200, "application/json", completion_json(id, choices_, usage_, tokenizer.get()));
  if (request.include_usage) reply->write(stream_usage(id, usage_));
  reply->write(std::string(kStreamDone));
  reply->end();
}

void CompletionJob::error(int status, std::string_view message, std::string_view type, std::string_view code) {
  if (finished) return;
  finished = true;
  note.finish = "error";
  reply->note(note);
  if (!streaming_) return send_error(reply, status, message, type, code);
  reply->write(stream_error(message));
  reply->write(std::string(kStreamDone));
  reply->end();
}

void CompletionJob::failed(const std::exception& thrown) {
  if (!finished) log_warning("request {}: {}", id.id, thrown.what());
  const FailureReply told = failure_reply(thrown);
  error(told.status, told.message, "server_error");
}

}  // namespace rhetor
