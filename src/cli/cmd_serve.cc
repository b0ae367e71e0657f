// rhetor serve.
#include <atomic>
#include <csignal>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "base/thread_pool.h"
#include "cli/args.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "serve/server.h"

namespace rhetor {

int cmd_serve(int argc, const char* const* argv) {
  std::string path;
  ServerOptions options;
  std::int64_t port = options.port, slots = options.slots, queue = options.max_queue, threads = 0;
  Args args("serve", "Serves a model over HTTP: /v1/chat/completions, /v1/completions, /v1/models, /healthz, and a chat page at /.",
            "  rhetor serve runs/quickstart/model.plan --port 8080\n"
            "  curl http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' \\\n"
            "    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello!\"}], \"stream\": true}'");
  args.positional("model", path, "model folder or plan file")
      .option("--port", port, "TCP port, 0 = any free one", 0, 65535)
      .option("--host", options.host, "address to listen on; 0.0.0.0 = every interface")
      .option("--slots,--workers", slots, "answers computed together, rounded up to a batch the model has", 1, 256)
      .option("--queue", queue, "requests that may wait while all slots are busy; more are told to come back (429)", 0, 100000)
      .option("--timeout", options.request_timeout_s, "seconds a request may take, waiting included", 1.0, 86400.0)
      .option("--threads", threads, "CPU threads, 0 = all cores", 0, 1024);
  if (!args.parse(argc, argv)) return 0;
  if (threads > 0) set_default_threads(static_cast<int>(threads));
  options.port = static_cast<std::uint16_t>(port);
  options.slots = static_cast<int>(slots);
  options.max_queue = static_cast<int>(queue);

  // Signals are taken by one waiting thread, so that stopping runs as ordinary code. They are blocked before any thread is started:
  // threads inherit that.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  std::mutex mutex;
  Server* server = nullptr;   // guarded by mutex: null while the model is loaded and after the service has ended
  std::atomic<bool> ended = false;
  std::thread waiter([&] {
    std::thread stopper;
    for (int taken = 0;; ++taken) {
      int signal = 0;
      sigwait(&signals, &signal);
      if (ended) break;
      std::lock_guard lock(mutex);
      if (!server) {
        // Nothing to finish: die of the signal as any program would.
        pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
        std::raise(signal);
      } else if (taken == 0) {
        if (const int busy = server->busy(); busy > 0)
          fmt::print(stderr, "\nfinishing {} answer{}; Ctrl-C again breaks off\n", busy, busy == 1 ? "" : "s");
        stopper = std::thread([&] { server->stop(); });
      } else {
        server->stop_now();   // after this run() ends, and stop() with it
      }
    }
    if (stopper.joinable()) stopper.join();
  });
  // Whatever way this function is left, the waiter is woken and joined.
  const auto end_waiter = [&] {
    ended = true;
    pthread_kill(waiter.native_handle(), SIGTERM);
    waiter.join();
  };
  try {
    const LanguageModelPtr model = open_language_model(path);
    Server service(model, options);
    const auto publish = [&](Server* s) {
      std::lock_guard lock(mutex);
      server = s;
    };
    publish(&service);
    fmt::print("{} ({}) at http://{}:{}/  (Ctrl-C stops)\n", model->name(), human_bytes(model->weight_bytes()), options.host, service.port());
    std::fflush(stdout);
    try {
      service.run();
    } catch (...) {
      publish(nullptr);   // the waiter must not touch it any more
      throw;
    }
    end_waiter();
  } catch (...) {
    end_waiter();
    throw;
  }
  return 0;
}

}  // namespace rhetor
