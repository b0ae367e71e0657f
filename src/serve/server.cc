#include "serve/server.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "generate/batch_engine.h"
#include "generate/chat_window.h"
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

// One accepted request. The I/O thread makes it and queues it; from then on it belongs to the engine thread.
struct Job {
  CompletionRequest request;
  std::vector<TokenId> prompt;
  ResponderPtr reply;
  ReplyId id;
  Clock::time_point deadline;
  BatchEngine::Id sequence = 0;
  bool streaming = false;   // the reply's header is out
  bool finished = false;

  void open_stream() {
    if (streaming) return;
    streaming = true;
    reply->begin_stream("text/event-stream");
    reply->write(stream_open(id));
  }
  void piece(std::string_view text) {
    if (!request.stream || text.empty()) return;
    open_stream();
    reply->write(stream_piece(id, text));
  }
  void answer(const Generation& result) {
    if (finished) return;
    finished = true;
    if (!request.stream) return reply->send(200, kJson, completion_json(id, result));
    open_stream();
    reply->write(stream_end(id, result, request.include_usage));
    reply->end();
  }
  void error(int status, std::string_view message, std::string_view type, std::string_view code = "") {
    if (finished) return;
    finished = true;
    if (!streaming) return send_error(reply, status, message, type, code);
    reply->write(stream_error(message));
    reply->end();
  }
  // What goes wrong while an answer is computed is not the client's doing (damaged weights, no memory), and for the log.
  void failed(const std::exception& thrown) {
    if (!finished) log_warning("request {}: {}", id.id, thrown.what());
    error(500, "internal error", "server_error");
  }
};
using JobPtr = std::shared_ptr<Job>;

}  // namespace

struct Server::Impl {
  Impl(LanguageModelPtr m, ServerOptions o)
      : model(std::move(m)),
        options(std::move(o)),
        window(*model),
        engine(new_engine()),
        slots(static_cast<int>(engine->slots())),
        http({.host = options.host, .port = options.port, .max_body_bytes = options.max_body_bytes},
             [this](const HttpRequest& request, ResponderPtr reply) { route(request, std::move(reply)); }) {}

  LanguageModelPtr model;
  ServerOptions options;
  ChatWindow window;
  std::int64_t started = std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();

  std::mutex mutex;
  std::condition_variable changed;
  std::deque<JobPtr> queue;     // guarded by mutex
  int running = 0;              // guarded by mutex; jobs.size() as the others may see it
  bool stopping = false;        // guarded by mutex: no new requests
  bool breaking = false;        // guarded by mutex: nor are the accepted ones finished

  // The engine thread's own.
  std::unique_ptr<BatchEngine> engine;
  std::vector<JobPtr> jobs;     // in the engine
  const int slots;
  std::thread thread;
  HttpServer http;              // last: it goes first, when no job is left to refer to it

  void route(const HttpRequest& request, ResponderPtr reply);
  void submit(const HttpRequest& request, ResponderPtr reply, bool chat);
  std::unique_ptr<BatchEngine> new_engine() const { return std::make_unique<BatchEngine>(*model, options.slots); }

  void work();
  bool admit(std::vector<JobPtr>& joining);
  bool give_up(Job& job, bool broken_off);
  void join(const JobPtr& job);
  void step();
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

// On the I/O thread: everything that can be refused is refused here, before it takes a place in the queue.
void Server::Impl::submit(const HttpRequest& request, ResponderPtr reply, bool chat) {
  const auto job = std::make_shared<Job>();
  try {
    job->request = parse_completion(request.body, chat);
  } catch (const Error& error) {
    return send_error(reply, 400, error.what());
  }
  const CompletionRequest& r = job->request;
  if (!r.model.empty() && r.model != model->name()) {
    return send_error(reply, 404, fmt::format("the model '{}' does not exist here; this service has '{}'", r.model, model->name()),
                      "invalid_request_error", "model_not_found");
  }
  {
    std::lock_guard lock(mutex);
    if (stopping) return send_error(reply, 503, "the service is stopping", "server_error");
    const std::int64_t accepted = running + static_cast<std::int64_t>(queue.size());
    if (accepted >= static_cast<std::int64_t>(slots) + options.max_queue)
      return send_error(reply, 429, fmt::format("{} requests are waiting already; try again in a second", accepted - running),
                        "rate_limit_error", "queue_full");
  }
  try {
    job->prompt = chat ? window.fit(r.messages, r.sampling.max_tokens).tokens : window.encode(r.prompt, r.specials);
  } catch (const Error& error) {
    return send_error(reply, 400, error.what(), "invalid_request_error",
                      error.kind() == ErrorKind::resource ? "context_length_exceeded" : "");
  }
  job->id = new_reply_id(model->name(), chat);
  job->deadline = Clock::now() + std::chrono::milliseconds(static_cast<std::int64_t>(options.request_timeout_s * 1000));
  job->reply = std::move(reply);
  {
    std::lock_guard lock(mutex);
    if (stopping) return send_error(job->reply, 503, "the service is stopping", "server_error");
    queue.push_back(job);   // this thread alone adds to the queue: it has not grown since it was looked at
  }
  changed.notify_all();
}

// ---- the engine thread ----

void Server::Impl::work() {
  std::vector<JobPtr> joining;
  while (admit(joining)) {
    for (const JobPtr& job : joining) join(job);
    joining.clear();
    step();
  }
}

// Waits for something to do and takes what there is room for; false when the service has stopped and nothing is left.
bool Server::Impl::admit(std::vector<JobPtr>& joining) {
  std::unique_lock lock(mutex);
  running = static_cast<int>(jobs.size());
  if (running == 0 && queue.empty()) changed.notify_all();   // stop() may be waiting for this
  changed.wait(lock, [this] { return stopping || !queue.empty() || !jobs.empty(); });
  std::erase_if(queue, [this](const JobPtr& job) { return give_up(*job, breaking); });
  for (const JobPtr& job : jobs) {
    if (give_up(*job, breaking)) engine->cancel(job->sequence);
  }
  std::erase_if(jobs, [](const JobPtr& job) { return job->finished; });
  while (!queue.empty() && static_cast<int>(jobs.size() + joining.size()) < slots) {
    joining.push_back(std::move(queue.front()));
    queue.pop_front();
  }
  running = static_cast<int>(jobs.size() + joining.size());
  if (!stopping || running > 0) return true;
  changed.notify_all();
  return false;
}

// True, and answered, if there is no point in going on with a job.
bool Server::Impl::give_up(Job& job, bool broken_off) {
  if (job.reply->closed()) job.finished = true;
  else if (broken_off) job.error(503, "the service is stopping", "server_error");
  else if (Clock::now() > job.deadline)
    job.error(504, fmt::format("the answer took longer than the {} s allowed", options.request_timeout_s), "server_error", "timeout");
  return job.finished;
}

void Server::Impl::join(const JobPtr& job) {
  try {
    job->sequence = engine->add({
        .prompt = std::move(job->prompt),
        .sampling = job->request.sampling,
        .on_text =
            [job](std::string_view text) {
              job->piece(text);
              return !job->reply->closed();
            },
        .on_done = [job](const Generation& result) { job->answer(result); },
        .on_error =
            [job](std::exception_ptr thrown) {
              try {
                std::rethrow_exception(thrown);
              } catch (const std::exception& error) {
                job->failed(error);
              }
            },
    });
    jobs.push_back(job);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::invalid) job->error(400, error.what(), "invalid_request_error");
    else job->failed(error);
  } catch (const std::exception& error) {
    job->failed(error);
  }
}

void Server::Impl::step() {
  try {
    engine->step();
  } catch (const std::exception& error) {
    // Out of memory or a bug of ours: nobody's answer can be trusted to go on. The next requests begin afresh.
    for (const JobPtr& job : jobs) job->failed(error);
    engine = new_engine();
  }
  std::erase_if(jobs, [](const JobPtr& job) { return job->finished; });
}

// ---- public ----

Server::Server(LanguageModelPtr model, ServerOptions options) : impl_(std::make_unique<Impl>(std::move(model), std::move(options))) {
  impl_->engine->prepare();
  impl_->thread = std::thread([impl = impl_.get()] { impl->work(); });
}

Server::~Server() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->stopping = impl_->breaking = true;
  }
  impl_->changed.notify_all();
  impl_->thread.join();
}

std::uint16_t Server::port() const { return impl_->http.port(); }
int Server::slots() const { return impl_->slots; }
void Server::run() { impl_->http.run(); }

int Server::busy() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->running + static_cast<int>(impl_->queue.size());
}

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

void Server::stop_now() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->stopping = impl_->breaking = true;
  }
  stop();
}

}  // namespace rhetor
