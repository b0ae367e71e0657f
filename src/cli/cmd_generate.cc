// rhetor generate, rhetor chat.
#include <unistd.h>

#include <cstdio>

#include "base/error.h"
#include "base/thread_pool.h"
#include "cli/args.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/sampling_args.h"
#include "data/batches.h"
#include "generate/chat_window.h"
#include "generate/generator.h"

namespace rhetor {
namespace {

bool print_piece(std::string_view piece) {
  return std::fwrite(piece.data(), 1, piece.size(), stdout) == piece.size() && std::fflush(stdout) == 0;
}

// One line from standard input; false at its end.
bool read_line(std::string& line) {
  line.clear();
  for (int c = std::getchar(); c != EOF; c = std::getchar()) {
    if (c == '\n') return true;
    if (line.size() < (1u << 20)) line.push_back(static_cast<char>(c));
  }
  return !line.empty();
}

}  // namespace

int cmd_generate(int argc, const char* const* argv) {
  std::string path, prompt, json;
  Sampling sampling;
  std::int64_t seed = 0, threads = 0;
  bool chat = false, quiet = false;
  Args args("generate", "Continues a prompt, streaming. MODEL is a model folder or a plan file.",
            "  rhetor generate runs/quickstart \"The harbour\"\n"
            "  rhetor generate runs/quickstart/model.plan \"Who keeps the lighthouse?\" --chat --temperature 0");
  args.positional("model", path, "model folder or plan file").positional("prompt", prompt, "text to continue");
  add_sampling(args, sampling, seed);
  args.flag("--chat", chat, "treat the prompt as a user's message")
      .flag("--quiet", quiet, "print the continuation only")
      .option("--threads", threads, "CPU threads, 0 = all cores", 0, 1024)
      .option("--json", json, "write text and timings to this file");
  if (!args.parse(argc, argv)) return 0;
  if (threads > 0) set_default_threads(static_cast<int>(threads));
  sampling.seed = static_cast<std::uint64_t>(seed);
  sampling.validate();
  const LanguageModelPtr model = open_language_model(path);
  const std::string text = chat ? render_chat({{"user", prompt}}, true) : prompt;
  if (!chat && !quiet) print_piece(prompt);
  const Generation result = generate(*model, model->tokenizer()->encode(text, chat), sampling, print_piece);
  fmt::print("\n");
  if (!quiet)
    fmt::print(stderr, "[{} tokens, first after {:.1f} ms, {:.0f} tokens/s, finish: {}]\n", result.tokens.size(), result.first_token_ms,
               result.tokens_per_s(), name(result.finish));
  write_json(json, {{"text", result.text},
                    {"prompt_tokens", result.prompt_tokens},
                    {"tokens", static_cast<std::int64_t>(result.tokens.size())},
                    {"finish", std::string(name(result.finish))},
                    {"first_token_ms", result.first_token_ms},
                    {"total_ms", result.total_ms},
                    {"tokens_per_s", result.tokens_per_s()}});
  return 0;
}

int cmd_chat(int argc, const char* const* argv) {
  std::string path, system;
  Sampling sampling;
  std::int64_t seed = 0;
  Args args("chat", "Talks to a model in the terminal. An empty line or Ctrl-D ends; /reset forgets the conversation.",
            "  rhetor chat runs/quickstart/model.plan");
  args.positional("model", path, "model folder or plan file").option("--system", system, "how the model should behave");
  sampling.temperature = 0.5;
  add_sampling(args, sampling, seed);
  if (!args.parse(argc, argv)) return 0;
  sampling.seed = static_cast<std::uint64_t>(seed);
  const LanguageModelPtr model = open_language_model(path);
  const bool terminal = isatty(STDIN_FILENO);
  if (terminal) fmt::print("{} ({} parameters on disk). Say something; an empty line ends.\n", model->name(), human_bytes(model->weight_bytes()));
  const ChatWindow window(*model);
  std::vector<ChatMessage> start;
  if (!system.empty()) start.push_back({"system", system});
  std::vector<ChatMessage> history = start;
  for (std::string line;;) {
    if (terminal) fmt::print("\n> ");
    std::fflush(stdout);
    if (!read_line(line) || line.empty()) break;
    if (line == "/reset") {
      history = start;
      continue;
    }
    history.push_back({"user", line});
    std::vector<TokenId> prompt;
    try {
      prompt = window.fit(history, sampling.max_tokens).tokens;
    } catch (const Error& error) {
      if (!terminal || error.kind() != ErrorKind::resource) throw;
      fmt::print("[{}]\n", error.what());  // the conversation goes on without this message
      history.pop_back();
      continue;
    }
    const Generation answer = generate(*model, prompt, sampling, print_piece);
    fmt::print("\n");
    history.push_back({"assistant", answer.text});
    ++sampling.seed;  // the same question asked again may get another answer
  }
  return 0;
}

}  // namespace rhetor
