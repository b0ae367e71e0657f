// rhetor serve.
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "cli/args.h"
#include "cli/commands.h"
#include "cli/machine_args.h"
#include "cli/output.h"
#include "cuda/cuda.h"
#include "serve/server.h"

namespace rhetor {
namespace {

constexpr const char* kKeyVariable = "RHETOR_API_KEYS";

// SIGINT and SIGTERM, taken by one waiting thread, so that stopping runs as ordinary code: the first stops the service, a second
// breaks off what it still does. While there is no service the process dies of the signal as any program would.
class SignalWatch {
 public:
  // Signals are blocked before any other thread is started: threads inherit that.
  SignalWatch() {
    sigemptyset(&signals_);
    sigaddset(&signals_, SIGINT);
    sigaddset(&signals_, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
    std::signal(SIGPIPE, SIG_IGN);
    waiter_ = std::thread([this] { wait(); });
  }
  ~SignalWatch() {
    ended_ = true;
    pthread_kill(waiter_.native_handle(), SIGTERM);
    waiter_.join();
  }
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;
  // The watch must end before the service does.
  void watch(Server* server) {
    std::lock_guard lock(mutex_);
    server_ = server;
  }

 private:
  void wait() {
    std::thread stopper;
    for (int taken = 0;; ++taken) {
      int signal = 0;
      sigwait(&signals_, &signal);
      if (ended_) break;
      std::lock_guard lock(mutex_);
      if (!server_) {
        pthread_sigmask(SIG_UNBLOCK, &signals_, nullptr);
        std::raise(signal);
      } else if (taken == 0) {
        if (const int busy = server_->busy(); busy > 0)
          fmt::print(stderr, "\nfinishing {} answer{}; Ctrl-C again breaks off\n", busy, busy == 1 ? "" : "s");
        stopper = std::thread([server = server_] { server->stop(); });
      } else {
        server_->stop_now();  // after this run() ends, and stop() with it
      }
    }
    if (stopper.joinable()) stopper.join();
  }

  sigset_t signals_;
  std::mutex mutex_;
  Server* server_ = nullptr;  // guarded by mutex_
  std::atomic<bool> ended_ = false;
  std::thread waiter_;
};

void read_keys(const std::string& file, ApiKeys& keys) {
  if (!file.empty()) keys.add(ApiKeys::from_file(file));
  if (const char* list = std::getenv(kKeyVariable)) keys.add(ApiKeys::from_list(list, kKeyVariable));
}

}  // namespace

int cmd_serve(int argc, const char* const* argv) {
  std::vector<std::string> paths, names;
  std::string key_file, log = "off";
  ServerOptions options;
  MachineArgs machine;
  std::int64_t port = options.port, slots = options.slots, queue = options.max_queue,
               connections = options.max_connections;
  std::int64_t body = static_cast<std::int64_t>(options.max_body_bytes);
  Args args("serve",
            "Serves models over HTTP: chat, completions, embeddings, rank, classify, tag, qa, models, /healthz, /metrics, and a "
            "chat page at /.",
            "  rhetor serve runs/quickstart/model.plan --port 8080\n"
            "  rhetor serve runs/chat.plan runs/ranker --name chat --name ranker --api-key-file keys.txt --log json\n"
            "  curl http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' \\\n"
            "    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello!\"}], \"stream\": true}'");
  args.positionals("models", paths, "model folders or plan files; the first is the default")
      .option("--name", names, "what to call a model, once a model in their order (default: the names they have)")
      .option("--port", port, "TCP port, 0 = any free one", 0, 65535)
      .option("--host", options.host, "address to listen on; 0.0.0.0 = every interface")
      .option("--slots,--workers", slots, "answers of a model computed together, rounded up to a batch the model has", 1, 256)
      .option("--queue", queue, "requests of a model that may wait while all slots are busy; more are told to come back (429)", 0,
              100000)
      .option("--timeout", options.request_timeout_s, "seconds a request may take, waiting included; it may ask for less", 1.0,
              86400.0)
      .option("--drain", options.drain_s, "seconds that accepted requests may go on after SIGTERM", 0.0, 86400.0)
      .option("--connections", connections, "open connections; more are refused (503)", 1, 1 << 20)
      .option("--max-body", body, "bytes of a request's body (413)", 1024, std::int64_t{1} << 30)
      .option("--max-output", options.max_output_tokens, "tokens of an answer, 0 = what the context holds", 0, 1 << 30)
      .option("--max-input", options.max_input_tokens, "tokens of a request, 0 = the context, or 100000 for texts to encode", 0,
              1 << 30)
      .option("--max-buffered", options.max_buffered_bytes, "bytes that may wait for a client that reads slowly", 1 << 12,
              1 << 30)
      .option("--api-key-file", key_file,
              fmt::format("file of API keys, one \"KEY\" or \"NAME KEY\" a line; also {}=KEY,KEY", kKeyVariable))
      .option("--cors", options.cors_origins, "origin whose pages may use this service, * = any; may be given several times")
      .choice("--log", log, "one line a request on standard error", {"off", "text", "json"})
      .option("--log-file", options.log_file, "write those lines to this file instead");
  machine.add_to(args);
  if (!args.parse(argc, argv)) return 0;
  if (!names.empty() && names.size() != paths.size())
    fail("--name was given {} times for {} models; give it once a model, in their order, or not at all", names.size(),
         paths.size());
  machine.apply();
  options.port = static_cast<std::uint16_t>(port);
  options.slots = static_cast<int>(slots);
  options.max_queue = static_cast<int>(queue);
  options.max_connections = static_cast<int>(connections);
  options.max_body_bytes = static_cast<std::uint64_t>(body);
  options.log_format = log == "json"                                ? LogFormat::json
                       : log == "text" || !options.log_file.empty() ? LogFormat::text
                                                                    : LogFormat::none;
  read_keys(key_file, options.keys);

  auto signals = std::make_unique<SignalWatch>();
  std::vector<ServedModel> models;
  std::string list;
  for (std::size_t i = 0; i < paths.size(); ++i) {
    models.push_back(open_served_model(paths[i], names.empty() ? "" : names[i]));
    list += fmt::format("{}{} ({})", i > 0 ? ", " : "", models.back().name, human_bytes(models.back().weight_bytes));
  }
  Server service(std::move(models), options);
  signals->watch(&service);
  on_lost_device([] { ::kill(::getpid(), SIGTERM); });  // requests get 503, then the program ends with the reason
  fmt::print("{} at http://{}:{}/  (Ctrl-C stops)\n", list, options.host, service.port());
  std::fflush(stdout);
  try {
    service.run();
  } catch (...) {
    signals.reset();
    throw;
  }
  on_lost_device(nullptr);
  signals.reset();  // before the service goes: a signal's thread may still be stopping it
  if (const std::string lost = lost_device(); !lost.empty()) throw Error(ErrorKind::unsupported, lost);
  return 0;
}

}  // namespace rhetor
