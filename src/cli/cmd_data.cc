// rhetor data tokenize | info: token folders.
#include <fmt/core.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>

#include "base/error.h"
#include "base/thread_pool.h"
#include "cli/args.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "data/token_folder.h"

namespace rhetor {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

int tokenize(int argc, const char* const* argv) {
  std::vector<std::string> files;
  std::string tokenizer, output, json;
  TokenizeOptions options;
  std::int64_t threads = 0;
  Args args(
      "data tokenize",
      "Encodes texts once and writes them as a folder of memory-mapped token shards, which data.files of a recipe may name.",
      "  rhetor data tokenize books/ wiki.jsonl.xz --tokenizer tokenizer.json -o tokens/wiki\n"
      "  rhetor data tokenize chats.jsonl --tokenizer runs/base -o tokens/chats --validation 0.02");
  args.positionals("files", files, "text, JSONL or folders of them, plain or .gz, .xz, .zst")
      .option("--tokenizer", tokenizer, "tokenizer.json or a model folder")
      .option("-o,--output", output, "folder to make; it must not exist or be empty")
      .option("--text-field", options.corpus.text_field, "JSONL: the field that holds the text")
      .option("--separator", options.corpus.separator, "plain text: a line that ends a document, \"\" = one document a file")
      .option("--validation", options.validation, "share of the documents kept for validation", 0.0, 0.5)
      .option("--shard-tokens", options.shard_tokens, "tokens after which a new shard begins", 1, std::int64_t{1} << 40)
      .option("--threads", threads, "CPU threads, 0 = all cores", 0, 1024)
      .option("--json", json, "write the result to this file");
  if (!args.parse(argc, argv)) return 0;
  if (tokenizer.empty()) fail("rhetor data tokenize needs --tokenizer; `rhetor tokenizer train` makes one");
  if (output.empty()) fail("rhetor data tokenize needs a folder to make: -o FOLDER");
  if (threads > 0) set_default_threads(static_cast<int>(threads));
  const TokenizerPtr with = load_tokenizer(tokenizer);
  if (std::filesystem::is_directory(tokenizer)) options.corpus.chat_template = load_chat_template(tokenizer);
  const auto start = std::chrono::steady_clock::now();
  auto shown = start;
  const bool terminal = ::isatty(STDERR_FILENO) == 1;
  const TokenizeProgress done =
      tokenize_to_folder({files.begin(), files.end()}, *with, output, options, [&](const TokenizeProgress& now) {
        if (seconds_since(shown) < (terminal ? 0.2 : 10)) return;
        shown = std::chrono::steady_clock::now();
        const double seconds = seconds_since(start);
        fmt::print(stderr, "{}{} documents, {} of text, {:.1f} M tokens, {:.1f} MB/s{}", terminal ? "\r\033[K" : "",
                   now.documents, human_bytes(now.bytes), static_cast<double>(now.tokens) / 1e6,
                   static_cast<double>(now.bytes) / 1e6 / seconds, terminal ? "" : "\n");
        std::fflush(stderr);
      });
  if (terminal) fmt::print(stderr, "\r\033[K");
  const double seconds = seconds_since(start);
  fmt::print("{}: {} documents, {} of text, {} tokens ({:.2f} bytes a token) in {:.1f} s, {:.1f} MB/s\n", output, done.documents,
             human_bytes(done.bytes), done.tokens,
             static_cast<double>(done.bytes) / static_cast<double>(std::max<std::int64_t>(1, done.tokens)), seconds,
             static_cast<double>(done.bytes) / 1e6 / seconds);
  write_json(json, {{"documents", done.documents},
                    {"tokens", done.tokens},
                    {"bytes", static_cast<std::int64_t>(done.bytes)},
                    {"seconds", seconds}});
  return 0;
}

int info(int argc, const char* const* argv) {
  std::string path;
  Args args("data info", "Shows what a token folder holds and reads all of it to check every shard.",
            "  rhetor data info tokens/wiki");
  args.positional("folder", path, "a folder made by `rhetor data tokenize`");
  if (!args.parse(argc, argv)) return 0;
  const TokenFolder folder = TokenFolder::open(path);
  folder.verify();
  fmt::print("{}\n  tokenizer   {}, {} tokens\n  text        {}\n", path, folder.tokenizer->kind(),
             folder.tokenizer->vocab_size(), human_bytes(folder.source_bytes));
  for (const auto& [part, view] : {std::pair{"training", &folder.train}, {"validation", &folder.validation}})
    fmt::print("  {:<11} {} tokens in {} documents\n", part, view->tokens(), view->documents());
  for (const auto* shards : {&folder.train_shards, &folder.validation_shards}) {
    for (const auto& shard : *shards)
      fmt::print("  {:<24} {:>12} tokens  {:>9} documents  {} bytes a token  {:016x}  good\n", shard->path().filename().string(),
                 shard->tokens(), shard->documents(), shard->token_bytes(), shard->checksum());
  }
  return 0;
}

}  // namespace

int cmd_data(int argc, const char* const* argv) {
  const std::string_view word = argc > 1 ? argv[1] : "--help";
  if (word == "tokenize") return tokenize(argc - 1, argv + 1);
  if (word == "info") return info(argc - 1, argv + 1);
  if (word != "--help" && word != "-h") fail("rhetor data {}: unknown; it does tokenize and info", word);
  fmt::print(
      "Usage: rhetor data tokenize | info\n\n  tokenize   encode texts once into a folder of memory-mapped shards\n  info       "
      "show such a folder and check it\n\n"
      "`rhetor data tokenize --help` explains.\n");
  return 0;
}

}  // namespace rhetor
