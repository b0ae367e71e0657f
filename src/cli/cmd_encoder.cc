// rhetor ask, embed, rank: what encoders answer.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "base/file.h"
#include "cli/args.h"
#include "cli/commands.h"
#include "cli/machine_args.h"
#include "data/corpus.h"
#include "generate/encoder_model.h"
#include "text/utf8.h"

namespace rhetor {
namespace {

using Json = nlohmann::ordered_json;
constexpr std::size_t kMostBytes = std::size_t{64} << 20;   // of a file that is read whole

std::string dump(const Json& json, int indent = -1) { return json.dump(indent, ' ', false, Json::error_handler_t::replace); }

// The lines of a file that are not blank.
std::vector<std::string> read_lines(const std::string& path) {
  const std::string text = read_unpacked(path, kMostBytes);
  std::vector<std::string> out;
  each_line(text, [&](std::string_view line, std::uint64_t) {
    if (!is_blank(line)) out.emplace_back(line);
    return true;
  });
  if (out.empty()) fail("'{}' has no line of text", path);
  return out;
}

std::string one_line(std::string text, std::size_t longest) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  if (text.size() > longest) text.resize(utf8_cut(text, longest)), text += "...";
  return text;
}

}  // namespace

int cmd_ask(int argc, const char* const* argv) {
  std::string path, passage_file, passage, question, json;
  AskOptions ask;
  MachineArgs machine;
  bool always = false;
  Args args("ask", "Finds the answer to a question in a passage, with a model fine-tuned for it (task = \"span\").",
            "  rhetor ask --model runs/bert-qa --passage chapter.txt \"Who keeps the lighthouse?\"");
  args.positional("question", question, "the question")
      .option("--model", path, "model folder")
      .option("--passage", passage_file, "file to read (plain, .gz, .xz or .zst); long ones are read in overlapping windows")
      .option("--text", passage, "the passage itself")
      .option("--best", ask.best, "answers to show", 1, 100)
      .option("--stride", ask.stride, "tokens that neighbouring windows share", 0, 1 << 20)
      .option("--max-answer", ask.max_answer_tokens, "longest answer in tokens", 1, 1 << 20)
      .option("--threshold", ask.no_answer_threshold, "\"no answer\" if its score is better by more than this", -1e9, 1e9)
      .flag("--always", always, "answer even if the passage seems to hold none")
      .option("--json", json, "write the answers to this file");
  machine.add_to(args);
  if (!args.parse(argc, argv)) return 0;
  if (path.empty()) fail("rhetor ask needs a model: --model FOLDER");
  if (passage_file.empty() == passage.empty()) fail("rhetor ask needs one passage: --passage FILE or --text \"...\"");
  machine.apply();
  if (!passage_file.empty()) passage = read_unpacked(passage_file, kMostBytes);
  ask.allow_no_answer = !always;
  const auto answers = open_encoder_model(path)->answer(question, passage, ask);
  Json list = Json::array();
  for (const SpanAnswer& a : answers) {
    fmt::print("{:>9.3f}  {}\n", a.score, a.text.empty() ? "(no answer)" : one_line(a.text, 400));
    list.push_back(
        {{"answer", a.text}, {"begin", a.begin}, {"end", a.end}, {"score", a.score}, {"no_answer_gap", a.no_answer_gap}});
  }
  if (answers.empty()) fmt::print("(no answer)\n");
  if (!json.empty()) write_file_atomic(json, dump({{"question", question}, {"answers", list}}, 2) + "\n");
  return 0;
}

int cmd_embed(int argc, const char* const* argv) {
  std::string path, file, output;
  std::vector<std::string> texts;
  MachineArgs machine;
  Args args("embed", "Turns texts into vectors of length 1, one JSON line each: {\"text\", \"embedding\"}.",
            "  rhetor embed --model runs/bert \"a text\" \"another\"\n  rhetor embed --model runs/bert --file lines.txt -o "
            "vectors.jsonl");
  args.positionals("text", texts, "texts", false)
      .option("--model", path, "model folder")
      .option("--file", file, "a text a line, plain or compressed")
      .option("-o,--output", output, "write to this file instead of standard output");
  machine.add_to(args);
  if (!args.parse(argc, argv)) return 0;
  if (path.empty()) fail("rhetor embed needs a model: --model FOLDER");
  if (texts.empty() == file.empty()) fail("rhetor embed needs texts: on the command line, or --file FILE with one a line");
  machine.apply();
  if (!file.empty()) texts = read_lines(file);
  const EncoderModelPtr model = open_encoder_model(path);
  std::string out;
  constexpr std::size_t kBatch = 256;
  for (std::size_t begin = 0; begin < texts.size(); begin += kBatch) {
    const std::span<const std::string> part(texts.data() + begin, std::min(kBatch, texts.size() - begin));
    const auto vectors = model->embed(part);
    for (std::size_t i = 0; i < part.size(); ++i) out += dump({{"text", part[i]}, {"embedding", vectors[i]}}) + "\n";
    if (!output.empty()) continue;
    std::fwrite(out.data(), 1, out.size(), stdout);
    out.clear();
  }
  if (!output.empty()) write_file_atomic(output, out);
  return 0;
}

int cmd_rank(int argc, const char* const* argv) {
  std::string path, query, file, json;
  std::vector<std::string> documents;
  std::int64_t top = 10;
  MachineArgs machine;
  Args args("rank", "Orders documents by how well they answer a query, best first.",
            "  rhetor rank --model runs/bert-rank \"who keeps the lighthouse?\" passages.txt\n"
            "  rhetor rank --model runs/bert \"sea\" \"a ship on the water\" \"a lamp in the window\"");
  args.positional("query", query, "the query")
      .positionals("documents", documents, "texts, or one file with a document a line")
      .option("--model", path, "model folder")
      .option("--top", top, "documents to show, 0 = all", 0, std::int64_t{1} << 40)
      .option("--json", json, "write all scores to this file");
  machine.add_to(args);
  if (!args.parse(argc, argv)) return 0;
  if (path.empty()) fail("rhetor rank needs a model: --model FOLDER");
  machine.apply();
  std::error_code ignored;
  if (documents.size() == 1 && std::filesystem::is_regular_file(documents[0], ignored)) documents = read_lines(documents[0]);
  const auto scores = open_encoder_model(path)->rank(query, documents);
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
  Json list = Json::array();
  for (std::size_t i = 0; i < order.size(); ++i) {
    const std::string& document = documents[order[i]];
    if (top == 0 || static_cast<std::int64_t>(i) < top)
      fmt::print("{:>9.4f}  {:>5}  {}\n", scores[order[i]], order[i] + 1, one_line(document, 160));
    list.push_back({{"index", order[i]}, {"score", scores[order[i]]}, {"document", document}});
  }
  if (!json.empty()) write_file_atomic(json, dump({{"query", query}, {"results", list}}, 2) + "\n");
  return 0;
}

}  // namespace rhetor
