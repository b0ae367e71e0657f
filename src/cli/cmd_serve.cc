// rhetor serve.
#include <csignal>
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
  std::int64_t port = options.port, workers = options.workers, queue = options.max_queue, threads = 0;
  Args args("serve", "Serves a model over HTTP: /v1/chat/completions, /v1/completions, /v1/models, /healthz, and a chat page at /.",
            "  rhetor serve runs/quickstart/model.plan --port 8080\n"
            "  curl http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' \\\n"
            "    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello!\"}], \"stream\": true}'");
  args.positional("model", path, "model folder or plan file")
      .option("--port", port, "TCP port, 0 = any free one", 0, 65535)
      .option("--host", options.host, "address to listen on; 0.0.0.0 = every interface")
      .option("--workers", workers, "answers computed at a time", 1, 256)
      .option("--queue", queue, "requests that may wait; more are told to come back (429)", 0, 100000)
      .option("--timeout", options.request_timeout_s, "seconds a request may take", 1.0, 86400.0)
      .option("--threads", threads, "CPU threads, 0 = all cores", 0, 1024);
  if (!args.parse(argc, argv)) return 0;
  if (threads > 0) set_default_threads(static_cast<int>(threads));
  options.port = static_cast<std::uint16_t>(port);
  options.workers = static_cast<int>(workers);
  options.max_queue = static_cast<int>(queue);

  // Signals are taken by one waiting thread, so that stop() runs as ordinary code.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);

  const LanguageModelPtr model = open_language_model(path);
  Server server(model, options);
  fmt::print("{} ({}) at http://{}:{}/  (Ctrl-C stops)\n", model->name(), human_bytes(model->weight_bytes()), options.host, server.port());
  std::fflush(stdout);
  std::thread waiter([&] {
    int signal = 0;
    sigwait(&signals, &signal);
    server.stop();
  });
  server.run();
  // run() may also have ended by itself: wake the waiter so that it can be joined.
  pthread_kill(waiter.native_handle(), SIGTERM);
  waiter.join();
  return 0;
}

}  // namespace rhetor
