#include "cli/commands.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <system_error>

#include "base/error.h"
#include "base/log.h"
#include "base/version.h"
#include "cpu/kernel.h"
#include "graph/op.h"
#include "runtime/tune_device.h"

namespace rhetor {
namespace {

constexpr std::string_view kTuneWorker = "tune-worker";

void print_overview() {
  fmt::print("Rhetor {}: one graph, trained, compressed, compiled and served.\n\nUsage: rhetor COMMAND [OPTIONS]\n\n", kVersion);
  for (const Command& command : commands()) fmt::print("  {:<12} {}\n", command.name, command.summary);
  fmt::print("\n`rhetor COMMAND --help` explains a command. A first try: rhetor quickstart\n");
}

int dispatch_command(std::string_view word, int argc, const char* const* argv) {
  if (word == "--help" || word == "-h" || word == "help") {
    print_overview();
    return 0;
  }
  if (word == "--version" || word == "version") {
    fmt::print("rhetor {}\n{}\n", kVersion, cpu_description());
    return 0;
  }
  if (word == kTuneWorker) return run_tune_worker();  // not listed: the tuner starts it
  std::vector<std::string_view> names;
  for (const Command& command : commands()) {
    if (command.name == word) return command.run(argc, argv);
    names.push_back(command.name);
  }
  const std::string near = nearest(word, names);
  fail("there is no command '{}'{}; `rhetor --help` lists them", word, near.empty() ? "" : "; did you mean '" + near + "'?");
}

}  // namespace

const std::vector<Command>& commands() {
  static const std::vector<Command> list{
      {"quickstart", "train, compress, compile and ask a small model, in minutes", cmd_quickstart},
      {"train", "train a model from a recipe", cmd_train},
      {"curves", "compare training runs in one picture and one table", cmd_curves},
      {"generate", "continue a prompt", cmd_generate},
      {"chat", "talk to a model in the terminal", cmd_chat},
      {"ask", "find the answer to a question in a passage", cmd_ask},
      {"embed", "turn texts into vectors", cmd_embed},
      {"rank", "order documents by how well they answer a query", cmd_rank},
      {"eval", "measure a model on a task", cmd_eval},
      {"merge", "write out the model that an adapter makes of its base", cmd_merge},
      {"compress", "make a model smaller and faster, and say what it cost", cmd_compress},
      {"compile", "turn a model folder into one plan file", cmd_compile},
      {"explain", "show what the compiler did and why", cmd_explain},
      {"serve", "answer over HTTP, OpenAI-style, with a chat page", cmd_serve},
      {"bench", "measure ops, models, training and generation", cmd_bench},
      {"data", "encode texts into token folders, look at one", cmd_data},
      {"recipe", "print the recipe reference, or check a recipe", cmd_recipe},
      {"tokenizer", "train a tokenizer, look at one, encode texts", cmd_tokenizer},
  };
  return list;
}

int run_cli(int argc, const char* const* argv) {
  const std::string_view word = argc > 1 ? argv[1] : "--help";
  try {
    set_tune_worker({"/proc/self/exe", std::string(kTuneWorker)});
    const int code = dispatch_command(word, argc - 1, argv + 1);
    if (std::fflush(stdout) != 0) fail(ErrorKind::io, "cannot write to standard output: {}", std::strerror(errno));
    return code;
  } catch (const std::system_error& error) {  // fmt::print's, when standard output cannot take what it is given
    log_line(LogLevel::error, fmt::format("cannot write to standard output: {}", error.code().message()));
    return 1;
  } catch (const Error& error) {
    log_line(LogLevel::error, error.what());
    return error.kind() == ErrorKind::internal ? 2 : 1;
  } catch (const std::bad_alloc&) {
    log_line(LogLevel::error, "out of memory; try a smaller model, batch or sequence");
    return 1;
  } catch (const std::exception& error) {
    log_line(LogLevel::error, fmt::format("internal error: {}", error.what()));
    return 2;
  }
}

std::filesystem::path resource(const std::string& name) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored).parent_path();
  std::string tried;
  const char* override_folder = std::getenv("RHETOR_DATA");
  for (const fs::path& folder : {fs::path(override_folder ? override_folder : ""), program / "../share/rhetor", program / "../../data", fs::path("data")}) {
    if (folder.empty()) continue;
    const fs::path candidate = (folder / name).lexically_normal();
    if (fs::exists(candidate, ignored)) return candidate;
    tried += "\n  " + candidate.string();
  }
  fail(ErrorKind::not_found, "the file '{}' that ships with Rhetor was not found; set RHETOR_DATA to its folder. Tried:{}", name, tried);
}

}  // namespace rhetor
