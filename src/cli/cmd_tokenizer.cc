// rhetor tokenizer train | encode | info | convert: tokenizers by themselves.
#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdio>
#include <ctime>
#include <span>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/thread_pool.h"
#include "cli/args.h"
#include "cli/cmd_tokenizer.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "data/corpus.h"
#include "text/make_tokenizer.h"
#include "text/token_roles.h"
#include "text/utf8.h"
#include "text/vocabulary_json.h"

namespace rhetor {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string kinds_help() {
  std::string out;
  for (const TokenizerKind& kind : tokenizer_kinds()) out += fmt::format("{}{} ({})", out.empty() ? "" : "; ", kind.name, kind.summary);
  return out;
}

int train(int argc, const char* const* argv) {
  TokenizerTrainOptions options;
  std::vector<std::string> data;
  std::string output;
  std::int64_t threads = 0;
  std::vector<std::string> names;
  for (const TokenizerKind& kind : tokenizer_kinds()) names.emplace_back(kind.name);
  Args args("tokenizer train", "Trains a tokenizer on texts and writes it as tokenizer.json.",
            "  rhetor tokenizer train --kind wordpiece --vocab-size 8000 -o tokenizer.json corpus.txt");
  args.positionals("data", data, "text, JSONL or folders, plain or compressed")
      .choice("--kind", options.kind, kinds_help(), names)
      .option("--vocab-size", options.vocab_size, "tokens, special ones included", 1, 1 << 22)
      .option("--special", options.specials, "a special token (may be repeated); for byte-bpe in place of its own, else besides them")
      .option("-o,--output", output, "file to write")
      .option("--threads", threads, "CPU threads, 0 = all cores", 0, 1024);
  if (!args.parse(argc, argv)) return 0;
  if (output.empty()) fail("rhetor tokenizer train needs a file to write: -o tokenizer.json");
  if (threads > 0) set_default_threads(static_cast<int>(threads));
  std::vector<std::filesystem::path> paths(data.begin(), data.end());
  Corpus corpus(paths);
  const auto start = std::chrono::steady_clock::now();
  std::uint64_t bytes = 0;
  const TokenizerPtr tokenizer = train_tokenizer(
      [&](std::string& document) {
        if (!corpus.next(document)) return false;
        bytes += document.size();
        return true;
      },
      options);
  tokenizer->save(output);
  fmt::print("{}: {} tokens from {} in {:.1f} s, written to {}\n", options.kind, tokenizer->vocab_size(), human_bytes(bytes), seconds_since(start), output);
  return 0;
}

// The lines of a file or of standard input, as they are or each a JSON string.
std::vector<std::string> read_lines(const std::string& path, bool json) {
  const std::string text = read_file(path == "-" ? "/dev/stdin" : path);
  std::vector<std::string> out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    at = end + 1;
    if (json) {
      const auto value = nlohmann::json::parse(line, nullptr, false);
      if (!value.is_string()) fail("line {} of {} is not a JSON string, which --jsonl asks for", out.size() + 1, path);
      line = value.get<std::string>();
    }
    out.push_back(std::move(line));
  }
  return out;
}

std::string ids_json(const std::vector<TokenId>& ids) {
  std::string out = "[";
  for (const TokenId id : ids) out += (out.size() > 1 ? "," : "") + std::to_string(id);
  return out + "]";
}

// One line of output for one text.
void print_line(const Tokenizer& tokenizer, const std::string& line, bool framed, bool specials, bool json, bool ids_only) {
  const Encoding e = framed ? tokenizer.encode_template(line, nullptr, specials) : tokenizer.encode_ranges(line, specials);
  if (json) {
    std::string ranges = "[", segments = "[";
    for (std::size_t i = 0; i < e.ids.size(); ++i) {
      ranges += fmt::format("{}[{},{}]", i ? "," : "", e.ranges[i].begin, e.ranges[i].end);
      segments += fmt::format("{}{}", i ? "," : "", e.segments[i]);
    }
    fmt::print("{{\"ids\":{},\"offsets\":{}],\"segments\":{}],\"text\":{},\"full_text\":{}}}\n", ids_json(e.ids), ranges, segments,
               json_string(tokenizer.decode(e.ids)), json_string(tokenizer.decode(e.ids, true)));
  } else if (ids_only) {
    std::string out;
    for (const TokenId id : e.ids) out += (out.empty() ? "" : " ") + std::to_string(id);
    fmt::print("{}\n", out);
  } else {
    for (std::size_t i = 0; i < e.ids.size(); ++i)
      fmt::print("{:>8} {:<24} {}..{}\n", e.ids[i], json_string(tokenizer.token_bytes(e.ids[i])), e.ranges[i].begin, e.ranges[i].end);
  }
}

int encode(int argc, const char* const* argv) {
  std::string path, text, file;
  bool ids = false, json = false, jsonl = false, framed = false, specials = false, speed = false;
  std::int64_t threads = 0, repeat = 1;
  Args args("tokenizer encode", "Encodes a text, or every line of a file, and shows the tokens.",
            "  rhetor tokenizer encode tokenizer.json --text 'The harbour.'\n"
            "  rhetor tokenizer encode runs/quickstart --file lines.txt --ids\n"
            "  rhetor tokenizer encode tokenizer.json --file questions.jsonl --jsonl --template --truncate 384 --stride 128 --pad longest\n"
            "  rhetor tokenizer encode tokenizer.json --file book.txt --speed");
  BatchFlags batch;
  args.positional("tokenizer", path, "tokenizer.json, another tokenizer file, or a model folder")
      .option("--text", text, "the text")
      .option("--file", file, "a file of one text a line; - is standard input")
      .flag("--jsonl", jsonl, "each line of the file is a JSON string")
      .flag("--ids", ids, "print ids only")
      .flag("--json", json, "print one JSON object a text: ids, offsets (bytes), segments, text (decoded), full_text (with special tokens)")
      .flag("--template", framed, "with what the tokenizer's template adds ([CLS], [SEP])")
      .flag("--specials", specials, "recognise special tokens in the text")
      .flag("--speed", speed, "print only the speed of encoding the file")
      .option("--repeat", repeat, "with --speed: encode it this many times", 1, 1000)
      .option("--threads", threads, "CPU threads, 0 = all cores", 0, 1024);
  batch.add_to(args);
  if (!args.parse(argc, argv)) return 0;
  if (text.empty() == file.empty()) fail("rhetor tokenizer encode needs either --text TEXT or --file FILE");
  if (threads > 0) set_default_threads(static_cast<int>(threads));
  const TokenizerPtr tokenizer = load_tokenizer(path);
  if (batch.asked()) return batch.print(*tokenizer, file, text, jsonl, framed, specials);
  const std::vector<std::string> lines = file.empty() ? std::vector<std::string>{text} : read_lines(file, jsonl);
  if (!speed) {
    for (const std::string& line : lines) print_line(*tokenizer, line, framed, specials, json, ids);
    return 0;
  }
  const std::vector<std::string_view> views(lines.begin(), lines.end());
  std::size_t bytes = 0, tokens = 0;
  for (const std::string_view view : views) bytes += view.size();
  encode_batch(*tokenizer, std::span(views).first(views.size() / 20), specials);
  const auto start = std::chrono::steady_clock::now();
  const std::clock_t cpu_start = std::clock();   // of all threads
  for (std::int64_t i = 0; i < repeat; ++i) {
    tokens = 0;
    for (const auto& list : encode_batch(*tokenizer, views, specials)) tokens += list.size();
  }
  const double seconds = seconds_since(start) / static_cast<double>(repeat);
  const double cpu_seconds = static_cast<double>(std::clock() - cpu_start) / CLOCKS_PER_SEC / static_cast<double>(repeat);
  fmt::print("{{\"mb_per_s\": {:.2f}, \"mb_per_cpu_s\": {:.2f}, \"tokens\": {}, \"bytes\": {}, \"threads\": {}}}\n",
             static_cast<double>(bytes) / seconds / 1e6, static_cast<double>(bytes) / cpu_seconds / 1e6, tokens, bytes, default_pool().threads());
  return 0;
}

int convert(int argc, const char* const* argv) {
  std::string path, output;
  Args args("tokenizer convert", "Writes any tokenizer file that can be read as tokenizer.json, which Hugging Face's tokenizers load too.",
            "  rhetor tokenizer convert vocab.txt -o tokenizer.json");
  args.positional("tokenizer", path, "tokenizer.json, another tokenizer file, or a model folder").option("-o,--output", output, "file to write");
  if (!args.parse(argc, argv)) return 0;
  if (output.empty()) fail("rhetor tokenizer convert needs a file to write: -o tokenizer.json");
  const TokenizerPtr tokenizer = load_tokenizer(path);
  tokenizer->save(output);
  fmt::print("{}, {} tokens, written to {}\n", tokenizer->kind(), tokenizer->vocab_size(), output);
  return 0;
}

int info(int argc, const char* const* argv) {
  std::string path;
  Args args("tokenizer info", "Shows what a tokenizer is made of.", "  rhetor tokenizer info tokenizer.json");
  args.positional("tokenizer", path, "tokenizer.json, another tokenizer file, or a model folder");
  if (!args.parse(argc, argv)) return 0;
  const TokenizerPtr tokenizer = load_tokenizer(path);
  const auto root = nlohmann::json::parse(tokenizer->to_json());
  fmt::print("{:<16}{}\n{:<16}{}\n", "kind", tokenizer->kind(), "tokens", tokenizer->vocab_size());
  for (const char* key : {"normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding"}) {
    if (!root.contains(key) || root[key].is_null()) continue;
    const std::string value = root[key].dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    fmt::print("{:<16}{}\n", key, value.size() > 400 ? value.substr(0, utf8_cut(value, 400)) + "..." : value);
  }
  std::string specials;
  for (const std::string& special : tokenizer->specials()) specials += fmt::format("{}{} = {}", specials.empty() ? "" : ", ", special, tokenizer->special(special));
  fmt::print("{:<16}{}\n", "special tokens", specials.empty() ? "none" : specials);
  for (const TokenRole role : {TokenRole::end_of_text, TokenRole::begin, TokenRole::classify, TokenRole::separate, TokenRole::pad, TokenRole::mask,
                               TokenRole::unknown}) {
    if (const TokenId id = token_for(*tokenizer, role); id >= 0) fmt::print("  {:<14}{} ({})\n", role_name(role), id, tokenizer->token_bytes(id));
  }
  return 0;
}

}  // namespace

int cmd_tokenizer(int argc, const char* const* argv) {
  const std::string_view word = argc > 1 ? argv[1] : "--help";
  if (word == "train") return train(argc - 1, argv + 1);
  if (word == "encode") return encode(argc - 1, argv + 1);
  if (word == "info") return info(argc - 1, argv + 1);
  if (word == "convert") return convert(argc - 1, argv + 1);
  if (word != "--help" && word != "-h") fail("rhetor tokenizer has no '{}'; it has train, encode, info and convert", word);
  fmt::print("rhetor tokenizer train | encode | info | convert\n\n  train   trains a tokenizer on texts: {}\n  encode  shows the tokens of a text, or measures the speed\n"
             "  info    shows what a tokenizer is made of\n  convert writes another program's tokenizer file as tokenizer.json\n\n`rhetor tokenizer train --help` explains one of them.\n", kinds_help());
  return 0;
}

}  // namespace rhetor
