// The subcommands. Each takes the words after its own name (argv[0] is the name) and returns the exit code.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace rhetor {

int cmd_quickstart(int argc, const char* const* argv);
int cmd_train(int argc, const char* const* argv);
int cmd_generate(int argc, const char* const* argv);
int cmd_chat(int argc, const char* const* argv);
int cmd_eval(int argc, const char* const* argv);
int cmd_ask(int argc, const char* const* argv);
int cmd_embed(int argc, const char* const* argv);
int cmd_rank(int argc, const char* const* argv);
int cmd_merge(int argc, const char* const* argv);
int cmd_compress(int argc, const char* const* argv);
int cmd_curves(int argc, const char* const* argv);
int cmd_compile(int argc, const char* const* argv);
int cmd_explain(int argc, const char* const* argv);
int cmd_serve(int argc, const char* const* argv);
int cmd_bench(int argc, const char* const* argv);
int cmd_data(int argc, const char* const* argv);
int cmd_recipe(int argc, const char* const* argv);
int cmd_tokenizer(int argc, const char* const* argv);

struct Command {
  std::string_view name, summary;
  int (*run)(int argc, const char* const* argv);
};
const std::vector<Command>& commands();

// Runs a whole command line; errors become one sentence on standard error and exit code 1 (2 for a bug of ours).
int run_cli(int argc, const char* const* argv);

// A file that ships with Rhetor ("stories/harbour.txt"), in a source checkout or an unpacked release; fails naming the places tried.
std::filesystem::path resource(const std::string& name);

}  // namespace rhetor
