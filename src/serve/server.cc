#include "serve/server.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <thread>

#include "base/error.h"
#include "base/version.h"
#include "cpu/kernel.h"
#include "serve/api.h"
#include "serve/completion_worker.h"
#include "serve/encoder_worker.h"
#include "serve/http.h"
#include "serve/page.h"
#include "serve/server_info.h"

namespace rhetor {
namespace {


std::vector<ServedModel> only(LanguageModelPtr model) {
  std::vector<ServedModel> out;
  out.push_back(serve_language_model(std::move(model)));
  return out;
}

std::vector<ServedModel> checked(std::vector<ServedModel> models) {
  if (models.empty()) fail("there is no model to serve; name at least one model folder or plan file");
  for (std::size_t i = 0; i < models.size(); ++i) {
    for (std::size_t k = 0; k < i; ++k) {
      if (models[k].name == models[i].name)
        fail("two models are called '{}'; give them names of their own with --name, once a model", models[i].name);
    }
  }
  return models;
}

}  // namespace

struct Server::Impl {
  // A model with the threads that work for it.
  struct Host {
    ServedModel model;
    std::unique_ptr<CompletionWorker> completions;
    std::unique_ptr<EncoderWorker> tasks;
  };
  struct Route {
    std::string_view target;
    bool post, open;  // open: needs no key
    void (Impl::*handle)(const HttpRequest&, const ResponderPtr&, const std::string& key);
  };

  Impl(std::vector<ServedModel> models, ServerOptions o);

  ServerOptions options;
  const std::int64_t started =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  Metrics metrics;
  Counter& slow_readers =
      metrics.counter("rhetor_slow_readers_total", "Connections dropped because their client did not read.");
  AccessLog log;
  std::vector<Host> hosts;
  std::atomic<bool> stopping = false;
  HttpServer http;  // last: it goes first, when no job is left to refer to it

  static const std::vector<Route>& routes();
  HttpOptions http_options();
  WorkerLimits limits() const;
  void add_metrics();
  void record(const HttpRecord& record);
  void dispatch(const HttpRequest& request, const ResponderPtr& reply);
  bool add_cors(const HttpRequest& request, const ResponderPtr& reply, bool preflight) const;
  std::optional<std::string> key_of(const HttpRequest& request) const;

  void page(const HttpRequest&, const ResponderPtr& reply, const std::string&);
  void health(const HttpRequest&, const ResponderPtr& reply, const std::string&);
  void show_metrics(const HttpRequest&, const ResponderPtr& reply, const std::string&);
  void models(const HttpRequest& request, const ResponderPtr& reply, const std::string&);
  template <bool kChat>
  void complete(const HttpRequest& request, const ResponderPtr& reply, const std::string& key);
  template <EncoderTask kTask>
  void task(const HttpRequest& request, const ResponderPtr& reply, const std::string& key);
  template <class Able>
  Host* choose(const std::string& name, std::string_view what, Able able, const ResponderPtr& reply, const std::string& key);

  template <class Each>
  void each_worker(Each each) const {
    for (const Host& host : hosts) {
      if (host.completions) each(static_cast<Worker&>(*host.completions));
      if (host.tasks) each(static_cast<Worker&>(*host.tasks));
    }
  }
};

Server::Impl::Impl(std::vector<ServedModel> list, ServerOptions o)
    : options(std::move(o)),
      log(options.log_format, options.log_file),
      http(http_options(), [this](const HttpRequest& request, ResponderPtr reply) { dispatch(request, reply); }) {
  for (ServedModel& model : checked(std::move(list))) {
    Host host{.model = std::move(model)};
    if (host.model.language)
      host.completions = std::make_unique<CompletionWorker>(host.model.language, host.model.name, limits(), metrics);
    if (host.model.encoder) host.tasks = std::make_unique<EncoderWorker>(host.model.encoder, host.model.name, limits(), metrics);
    hosts.push_back(std::move(host));
  }
  add_metrics();
}

HttpOptions Server::Impl::http_options() {
  return {.host = options.host,
          .port = options.port,
          .max_body_bytes = options.max_body_bytes,
          .max_buffered_bytes = options.max_buffered_bytes,
          .max_connections = options.max_connections,
          .on_done = [this](const HttpRecord& done) { record(done); }};
}

WorkerLimits Server::Impl::limits() const {
  return {.max_queue = options.max_queue,
          .slots = options.slots,
          .max_seconds = options.request_timeout_s,
          .max_output_tokens = options.max_output_tokens,
          .max_input_tokens = options.max_input_tokens};
}

void Server::Impl::add_metrics() {
  metrics.add_process();
  metrics.gauge("rhetor_build_info", "What is running; always 1.", [] { return 1.0; },
                {{"version", std::string(kVersion)}, {"cpu", cpu_description()}, {"compiler", server_compiler()}});
  metrics.gauge("rhetor_connections", "Open connections.", [this] { return static_cast<double>(http.connections()); });
  metrics.counter_from("rhetor_access_log_dropped_total", "Log lines that nobody took.",
                       [this] { return static_cast<double>(log.dropped()); });
  for (const Host& host : hosts)
    metrics.gauge("rhetor_model_bytes", "Weights of a model.",
                  [bytes = static_cast<double>(host.model.weight_bytes)] { return bytes; }, {{"model", host.model.name}});
}

// On the I/O thread, when a request is over.
void Server::Impl::record(const HttpRecord& done) {
  log.log(done);
  std::string route = "other";
  for (const Route& known : routes()) {
    if (known.target == done.target) route = done.target;
  }
  const Labels labels = {{"route", route}, {"model", done.note.model}};
  Labels with_status = labels;
  with_status.emplace_back("status", fmt::format("{}", done.status));
  metrics.counter("rhetor_requests_total", "Requests answered; status 499: the client left before.", with_status).add();
  metrics.histogram("rhetor_request_seconds", "From a request's header to the last byte of its answer.", latency_bounds(), labels)
      .observe(done.seconds);
  if (done.slow) slow_readers.add();
}

const std::vector<Server::Impl::Route>& Server::Impl::routes() {
  static const std::vector<Route> list = {
      {"/", false, true, &Impl::page},
      {"/healthz", false, true, &Impl::health},
      {"/metrics", false, false, &Impl::show_metrics},
      {"/v1/models", false, false, &Impl::models},
      {"/v1/chat/completions", true, false, &Impl::complete<true>},
      {"/v1/completions", true, false, &Impl::complete<false>},
      {"/v1/embeddings", true, false, &Impl::task<EncoderTask::embed>},
      {"/v1/rank", true, false, &Impl::task<EncoderTask::rank>},
      {"/v1/rerank", true, false, &Impl::task<EncoderTask::rank>},
      {"/v1/classify", true, false, &Impl::task<EncoderTask::classify>},
      {"/v1/tag", true, false, &Impl::task<EncoderTask::tag>},
      {"/v1/qa", true, false, &Impl::task<EncoderTask::answer>},
  };
  return list;
}

// Pages of other origins may read an answer only if it says so. False: this origin may not.
bool Server::Impl::add_cors(const HttpRequest& request, const ResponderPtr& reply, bool preflight) const {
  const std::string_view origin = request.header("origin");
  if (options.cors_origins.empty() || origin.empty() || origin.size() > 256) return false;
  const bool any = options.cors_origins[0] == "*";
  if (!any && std::find(options.cors_origins.begin(), options.cors_origins.end(), origin) == options.cors_origins.end())
    return false;
  reply->add_header("Access-Control-Allow-Origin", any ? "*" : origin);
  if (!any) reply->add_header("Vary", "Origin");
  reply->add_header("Access-Control-Expose-Headers", "X-Request-Id, Retry-After");
  if (!preflight) return true;
  reply->add_header("Access-Control-Allow-Methods", "GET, HEAD, POST, OPTIONS");
  reply->add_header("Access-Control-Allow-Headers", "Authorization, Content-Type, X-Api-Key, X-Request-Id");
  reply->add_header("Access-Control-Max-Age", "600");
  return true;
}

// The name of the request's key ("" if none is needed), or nothing if it has no right one.
std::optional<std::string> Server::Impl::key_of(const HttpRequest& request) const {
  if (options.keys.empty()) return "";
  constexpr std::string_view kBearer = "Bearer ";
  std::string_view presented = request.header("authorization");
  if (presented.starts_with(kBearer))
    presented.remove_prefix(kBearer.size());
  else
    presented = request.header("x-api-key");
  return options.keys.find(presented);
}

void Server::Impl::dispatch(const HttpRequest& request, const ResponderPtr& reply) {
  const bool get = request.method == "GET" || request.method == "HEAD", preflight = request.method == "OPTIONS";
  add_cors(request, reply, preflight);
  const Route* found = nullptr;
  for (const Route& route : routes()) {
    if (route.target == request.target || (route.target == "/v1/models" && request.target.starts_with("/v1/models/")))
      found = &route;
  }
  if (!found) {
    std::string known;
    for (const Route& route : routes()) known += fmt::format("{}{}", known.empty() ? "" : ", ", route.target);
    return send_error(reply, 404, fmt::format("there is nothing at {}; there are {}", request.target.substr(0, 200), known));
  }
  if (preflight || (found->post ? request.method != "POST" : !get)) {
    reply->add_header("Allow", found->post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS");
    if (preflight) return reply->send(200, "text/plain", "");
    return send_error(reply, 405, fmt::format("{} answers {} only", found->target, found->post ? "POST" : "GET"));
  }
  const auto key = found->open ? std::optional<std::string>("") : key_of(request);
  if (!key) {
    return send_error(reply, 401,
                      "an API key is needed: send the header 'Authorization: Bearer KEY' with one that this service knows",
                      "invalid_request_error", "invalid_api_key");
  }
  if (found->post && stopping) return send_error(reply, 503, "the service is stopping", "server_error");
  (this->*found->handle)(request, reply, *key);
}

void Server::Impl::page(const HttpRequest&, const ResponderPtr& reply, const std::string&) {
  reply->send(200, "text/html; charset=utf-8", std::string(chat_page()));
}

void Server::Impl::health(const HttpRequest&, const ResponderPtr& reply, const std::string&) {
  int running = 0, waiting = 0;
  each_worker([&](const Worker& worker) {
    const WorkerStatus status = worker.status();
    running += status.running;
    waiting += status.waiting;
  });
  if (stopping) reply->add_header("Retry-After", "1");
  reply->send(stopping ? 503 : 200, "application/json",
              health_json(hosts[0].model.name, stopping ? "draining" : "ok", running, waiting));
}

void Server::Impl::show_metrics(const HttpRequest&, const ResponderPtr& reply, const std::string&) {
  reply->send(200, Metrics::kContentType, metrics.text());
}

void Server::Impl::models(const HttpRequest& request, const ResponderPtr& reply, const std::string&) {
  constexpr std::string_view kOne = "/v1/models/";
  std::vector<const ServedModel*> list;
  for (const Host& host : hosts) list.push_back(&host.model);
  if (!request.target.starts_with(kOne)) return reply->send(200, "application/json", models_json(list, started));
  const std::string_view name = std::string_view(request.target).substr(kOne.size());
  for (const ServedModel* model : list) {
    if (model->name == name) return reply->send(200, "application/json", model_json(*model, started));
  }
  send_error(reply, 404, fmt::format("the model '{}' does not exist here", name.substr(0, 100)), "invalid_request_error",
             "model_not_found");
}

// The model that a request names, or the first that can do what it asks for; null, and answered, if there is none.
template <class Able>
Server::Impl::Host* Server::Impl::choose(const std::string& name, std::string_view what, Able able, const ResponderPtr& reply,
                                         const std::string& key) {
  std::string names;
  for (Host& host : hosts) {
    names += fmt::format("{}'{}'", names.empty() ? "" : ", ", host.model.name);
    if (!name.empty() && host.model.name != name) continue;
    if (able(host)) {
      reply->note({.model = host.model.name, .key = key});
      return &host;
    }
    if (!name.empty()) {
      send_error(reply, 400, fmt::format("the model '{}' is not one for {}; GET /v1/models says what each can do", name, what),
                 "invalid_request_error", "model_not_able");
      return nullptr;
    }
  }
  if (name.empty()) {
    send_error(reply, 400, fmt::format("no model here is one for {}; this service has {}", what, names), "invalid_request_error",
               "model_not_able");
  } else {
    send_error(reply, 404, fmt::format("the model '{}' does not exist here; this service has {}", name.substr(0, 100), names),
               "invalid_request_error", "model_not_found");
  }
  return nullptr;
}

template <bool kChat>
void Server::Impl::complete(const HttpRequest& request, const ResponderPtr& reply, const std::string& key) {
  try {
    CompletionRequest parsed = parse_completion(request.body, kChat);
    if (Host* host = choose(
            parsed.model, "completions", [](const Host& h) { return h.completions != nullptr; }, reply, key))
      host->completions->submit(std::move(parsed), reply, key);
  } catch (const Error& error) {
    send_error(reply, 400, error.what());
  }
}

template <EncoderTask kTask>
void Server::Impl::task(const HttpRequest& request, const ResponderPtr& reply, const std::string& key) {
  try {
    EncoderRequest parsed = parse_task(kTask, request.body);
    if (Host* host = choose(
            parsed.model, task_name(kTask), [](const Host& h) { return h.tasks && h.model.can(kTask); }, reply, key))
      host->tasks->submit(std::move(parsed), reply, key);
  } catch (const Error& error) {
    send_error(reply, 400, error.what());
  }
}

// ---- public ----

Server::Server(std::vector<ServedModel> models, ServerOptions options)
    : impl_(std::make_unique<Impl>(std::move(models), std::move(options))) {}
Server::Server(LanguageModelPtr model, ServerOptions options) : Server(only(std::move(model)), std::move(options)) {}

Server::~Server() {
  impl_->each_worker([](Worker& worker) { worker.break_off(); });
  // Their threads end with the workers; the jobs are answered then, and nobody refers to the HTTP server any more.
  for (Impl::Host& host : impl_->hosts) host.completions.reset(), host.tasks.reset();
}

std::uint16_t Server::port() const { return impl_->http.port(); }
void Server::run() { impl_->http.run(); }

int Server::slots() const {
  return impl_->hosts[0].completions ? impl_->hosts[0].completions->status().slots : impl_->hosts[0].tasks->status().slots;
}

int Server::busy() const {
  int sum = 0;
  impl_->each_worker([&](const Worker& worker) {
    const WorkerStatus status = worker.status();
    sum += status.running + status.waiting;
  });
  return sum;
}

void Server::stop() {
  impl_->stopping = true;
  impl_->each_worker([](Worker& worker) { worker.drain(); });
  const auto end = after(ServeClock::now(), impl_->options.drain_s);
  for (bool idle = false, broken = false; !idle;) {
    idle = true;
    impl_->each_worker([&](const Worker& worker) { idle = idle && worker.idle(); });
    if (!idle && !broken && ServeClock::now() > end) {
      impl_->each_worker([](Worker& worker) { worker.break_off(); });
      broken = true;
    }
    if (!idle) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  impl_->http.stop();
}

void Server::stop_now() {
  impl_->each_worker([](Worker& worker) { worker.break_off(); });
  stop();
}

}  // namespace rhetor
