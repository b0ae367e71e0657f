#include "serve/server.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "serve/api.h"
#include "serve/http.h"
#include "serve/page.h"

namespace rhetor {
namespace {

using Clock = std::chrono::steady_clock;
constexpr const char* kJson = "application/json";

void send_error(const ResponderPtr& reply, int status, std::string_view message, std::string_view type = "invalid_request_error",
                std::string_view code = "") {
  std::vector<std::pair<std::string, std::string>> headers;
  if (status == 429) headers.emplace_back("Retry-After", "1");
  reply->send(status, kJson, error_json(message, type, code), headers);
}

struct Job {
  CompletionRequest request;
  ResponderPtr reply;
  Clock::time_point deadline;
};

}  // namespace

struct Server::Impl {
  Impl(LanguageModelPtr m, ServerOptions o)
      : model(std::move(m)),
        options(std::move(o)),
        http({.host = options.host, .port = options.port, .max_body_bytes = options.max_body_bytes},
             [this](const HttpRequest& request, ResponderPtr reply) { route(request, std::move(reply)); }) {}

  LanguageModelPtr model;
  ServerOptions options;
  std::int64_t started = std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();

  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Job> queue;        // guarded by mutex
  int running = 0;              // guarded by mutex
  bool stopping = false;        // guarded by mutex
  std::vector<std::thread> workers;
  HttpServer http;

  void route(const HttpRequest& request, ResponderPtr reply);
  void submit(const HttpRequest& request, ResponderPtr reply, bool chat);
  void work();
  void answer(const Job& job);
};

void Server::Impl::route(const HttpRequest& request, ResponderPtr reply) {
  const bool get = request.method == "GET" || request.method == "HEAD";
  struct Route {
    std::string_view target;
    bool get;
  };
  constexpr Route routes[] = {{"/", true}, {"/healthz", true}, {"/v1/models", true}, {"/v1/chat/completions", false}, {"/v1/completions", false}};
  for (const Route& route : routes) {
    if (route.target != request.target) continue;
    if (route.get ? !get : request.method != "POST")
      return reply->send(405, kJson, error_json(fmt::format("{} answers {} only", route.target, route.get ? "GET" : "POST"), "invalid_request_error"),
                         {{"Allow", route.get ? "GET, HEAD" : "POST"}});
    if (request.target == "/") return reply->send(200, "text/html; charset=utf-8", std::string(chat_page()));
    if (request.target == "/v1/models") return reply->send(200, kJson, models_json(model->name(), started));
    if (request.target == "/healthz") {
      std::lock_guard lock(mutex);
      return reply->send(200, kJson, health_json(model->name(), running, static_cast<int>(queue.size())));
    }
    return submit(request, std::move(reply), request.target == "/v1/chat/completions");
  }
  send_error(reply, 404, fmt::format("there is nothing at {}; try /, /healthz, /v1/models, /v1/chat/completions or /v1/completions", request.target));
}

void Server::Impl::submit(const HttpRequest& request, ResponderPtr reply, bool chat) {
  Job job;
  try {
    job.request = parse_completion(request.body, chat);
  } catch (const Error& error) {
    return send_error(reply, 400, error.what());
  }
  if (!job.request.model.empty() && job.request.model != model->name()) {
    return send_error(reply, 404, fmt::format("the model '{}' does not exist here; this service has '{}'", job.request.model, model->name()),
                      "invalid_request_error", "model_not_found");
  }
  job.reply = std::move(reply);
  job.deadline = Clock::now() + std::chrono::milliseconds(static_cast<std::int64_t>(options.request_timeout_s * 1000));
  {
    std::lock_guard lock(mutex);
    if (stopping) return send_error(job.reply, 503, "the service is stopping", "server_error");
    if (static_cast<int>(queue.size()) >= options.max_queue)
      return send_error(job.reply, 429, fmt::format("{} requests are waiting already; try again in a second", queue.size()), "rate_limit_error",
                        "queue_full");
    queue.push_back(std::move(job));
  }
  changed.notify_one();
}

void Server::Impl::work() {
  for (;;) {
    Job job;
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return stopping || !queue.empty(); });
      if (queue.empty()) return;
      job = std::move(queue.front());
      queue.pop_front();
      ++running;
    }
    if (!job.reply->closed()) answer(job);
    {
      std::lock_guard lock(mutex);
      --running;
    }
    changed.notify_all();
  }
}

void Server::Impl::answer(const Job& job) {
  const CompletionRequest& request = job.request;
  const ReplyId id = new_reply_id(model->name(), request.chat);
  bool streaming = false, late = false;
  auto open_stream = [&] {
    if (streaming) return;
    streaming = true;
    job.reply->begin_stream("text/event-stream");
    job.reply->write(stream_open(id));
  };
  try {
    const auto prompt = model->tokenizer()->encode(request.prompt, request.specials);
    const std::int64_t context = model->config().context;
    if (static_cast<std::int64_t>(prompt.size()) >= context) {
      return send_error(job.reply, 400,
                        fmt::format("the prompt has {} tokens, the model's context holds {}; shorten it", prompt.size(), context),
                        "invalid_request_error", "context_length_exceeded");
    }
    const Generation result = generate(*model, prompt, request.sampling, [&](std::string_view piece) {
      if (request.stream && !piece.empty()) {
        open_stream();
        job.reply->write(stream_piece(id, piece));
      }
      late = Clock::now() > job.deadline;
      return !late && !job.reply->closed();
    });
    if (late) fail(ErrorKind::resource, "the answer took longer than the {} s allowed", options.request_timeout_s);
    if (!request.stream) return job.reply->send(200, kJson, completion_json(id, result));
    open_stream();
    job.reply->write(stream_end(id, result, request.include_usage));
    job.reply->end();
  } catch (const std::exception& error) {
    const auto* known = dynamic_cast<const Error*>(&error);
    const bool user = known && known->kind() == ErrorKind::invalid;
    if (!user) log_warning("request {}: {}", id.id, error.what());
    if (streaming) {
      job.reply->write(stream_error(error.what()));
      job.reply->end();
    } else if (late) {
      send_error(job.reply, 504, error.what(), "server_error", "timeout");
    } else {
      send_error(job.reply, user ? 400 : 500, user ? error.what() : "internal error", user ? "invalid_request_error" : "server_error");
    }
  }
}

Server::Server(LanguageModelPtr model, ServerOptions options) : impl_(std::make_unique<Impl>(std::move(model), std::move(options))) {
  for (int i = 0; i < impl_->options.workers; ++i) impl_->workers.emplace_back([impl = impl_.get()] { impl->work(); });
}

Server::~Server() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->stopping = true;
  }
  impl_->changed.notify_all();
  for (auto& worker : impl_->workers)
    if (worker.joinable()) worker.join();
}

std::uint16_t Server::port() const { return impl_->http.port(); }
void Server::run() { impl_->http.run(); }

void Server::stop() {
  impl_->http.stop_accepting();
  {
    std::unique_lock lock(impl_->mutex);
    impl_->stopping = true;
    impl_->changed.notify_all();
    // Accepted requests are finished, not dropped.
    impl_->changed.wait(lock, [&] { return impl_->running == 0 && impl_->queue.empty(); });
  }
  impl_->http.stop();
}

}  // namespace rhetor
