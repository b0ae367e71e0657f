// rhetor eval: every task that a model can be measured on.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "cli/args.h"
#include "cli/commands.h"
#include "cli/machine_args.h"
#include "eval/choice.h"
#include "eval/fields.h"
#include "eval/labels.h"
#include "eval/last_word.h"
#include "eval/perplexity.h"
#include "eval/ranking.h"
#include "eval/squad.h"

namespace rhetor {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

struct EvalArgs {
  std::string model, model_option, task = "perplexity", data, json, predictions, score, no_answer, shots_from, documents,
                                   judgements;
  ExampleFields fields;
  MachineArgs machine;
  std::int64_t limit = 0, max_tokens = 0, shots = 0, slots = 8, stride = 128, max_answer = 30;
  double threshold = 0;
  bool quiet = false;
};

// A line every two seconds on standard error.
EvalProgress progress_lines(bool quiet) {
  if (quiet) return {};
  const auto start = Clock::now();
  return [start, last = start](std::int64_t done, std::int64_t total) mutable {
    const auto now = Clock::now();
    if (now - last < std::chrono::seconds(2) && done < total) return;
    last = now;
    const double seconds = std::chrono::duration<double>(now - start).count();
    fmt::print(stderr, "[{} of {}, {:.1f} a second]\n", done, total, static_cast<double>(done) / std::max(seconds, 1e-9));
  };
}

std::vector<Example> examples_of(const EvalArgs& a, std::string_view kind) {
  auto out = read_examples({a.data}, kind, kind == "span" ? a.fields : guess_fields(a.data, kind, a.fields));
  if (a.limit > 0 && static_cast<std::int64_t>(out.size()) > a.limit) out.resize(static_cast<std::size_t>(a.limit));
  return out;
}

// With --choices the fields are named; the choices then continue the text.
std::vector<ChoiceItem> choices_of(const EvalArgs& a, const std::string& path) {
  if (a.fields.choices.empty()) return read_choices(path, a.limit);
  EvalArgs named = a;
  named.data = path;
  std::vector<ChoiceItem> out;
  for (Example& e : examples_of(named, "choice")) {
    ChoiceItem item{.question = e.second.empty() ? e.first : e.second, .choices = e.choices};
    if (!e.second.empty()) item.passage = e.first;
    item.prompts = {item.passage.empty() ? item.question : item.passage + "\n\n" + item.question};
    for (const auto& choice : e.choices) item.continuations.push_back(" " + choice);
    if (e.right < 0) fail("'{}': no answer is given; name its field with --label", path);
    item.right = e.right;
    out.push_back(std::move(item));
  }
  return out;
}

EvalReport run_perplexity(const EvalArgs& a) {
  const PerplexityResult r = perplexity(std::filesystem::path(a.model), a.data, a.max_tokens);
  EvalReport report{.task = "perplexity", .n = r.tokens};
  report.add("loss", r.loss);
  report.add("perplexity", r.perplexity);
  report.add("bits_per_byte", r.bits_per_byte);
  report.add("tokens", static_cast<double>(r.tokens));
  report.add("bytes", static_cast<double>(r.bytes));
  return report;
}

bool is_bert_folder(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored) && load_model(path)->config.family == "bert";
}

EvalReport run_choice(const EvalArgs& a) {
  const auto items = choices_of(a, a.data);
  if (is_bert_folder(a.model)) return evaluate_choice(*open_encoder_model(a.model), items, progress_lines(a.quiet));
  ChoiceOptions options{.shots = a.shots, .slots = a.slots, .progress = progress_lines(a.quiet)};
  if (!a.shots_from.empty()) {
    EvalArgs all = a;
    all.limit = 0;
    options.examples = choices_of(all, a.shots_from);
  }
  return evaluate_choice(*open_language_model(a.model), items, options);
}

EvalReport run_squad(const EvalArgs& a) {
  const auto questions = examples_of(a, "span");
  if (!a.score.empty())
    return score_squad(questions, read_squad_predictions(a.score, a.no_answer), a.no_answer.empty() ? 1.0 : a.threshold,
                       !a.no_answer.empty());
  AskOptions ask{.stride = a.stride, .max_answer_tokens = a.max_answer, .no_answer_threshold = a.threshold};
  SquadPredictions answers;
  EvalReport report = evaluate_squad(*open_encoder_model(a.model), questions, ask, progress_lines(a.quiet), &answers);
  return report;
}

EvalReport run_ranking(const EvalArgs& a) {
  if (a.documents.empty() != a.judgements.empty())
    fail("--documents and --judgements belong together: a test collection is three files");
  const EncoderModelPtr model = open_encoder_model(a.model);
  if (!a.documents.empty())
    return evaluate_collection(*model, read_collection(a.data, a.documents, a.judgements, a.limit), progress_lines(a.quiet));
  EvalArgs all = a;
  all.limit = 0;   // it counts queries
  auto queries = group_queries(examples_of(all, "ranking"));
  if (a.limit > 0 && static_cast<std::int64_t>(queries.size()) > a.limit) queries.resize(static_cast<std::size_t>(a.limit));
  return evaluate_ranking(*model, queries, progress_lines(a.quiet));
}

EvalReport run_task(const EvalArgs& a) {
  const EvalProgress progress = progress_lines(a.quiet);
  if (a.task == "perplexity") return run_perplexity(a);
  if (a.task == "choice") return run_choice(a);
  if (a.task == "squad") return run_squad(a);
  if (a.task == "ranking") return run_ranking(a);
  if (a.task == "lastword")
    return evaluate_last_word(*open_language_model(a.model), read_last_words(a.data, a.limit), progress, a.slots);
  const auto examples = examples_of(a, a.task);
  const EncoderModelPtr model = open_encoder_model(a.model);
  if (a.task == "classification") return evaluate_classification(*model, examples, progress);
  if (a.task == "regression") return evaluate_regression(*model, examples, progress);
  return evaluate_tagging(*model, examples, progress);
}

void print_report(const EvalReport& report, double seconds) {
  fmt::print("{}: {} {}, {:.1f} s\n", report.task, report.n,
             report.task == "perplexity" ? "tokens"
             : report.task == "ranking"  ? "queries"
                                         : "examples",
             seconds);
  for (const auto& [name, value] : report.figures) {
    const bool whole = value == std::floor(value) && std::abs(value) < 1e15;
    const bool huge = std::abs(value) >= 1e9 && !whole;  // the perplexity of a model that knows nothing
    fmt::print("  {:<22} {}\n", name, huge ? fmt::format("{:.4g}", value) : fmt::format("{:.{}f}", value, whole ? 0 : 4));
  }
}

void write_report(const EvalArgs& a, const EvalReport& report, double seconds) {
  if (!a.predictions.empty()) {
    std::string lines;
    for (const auto& line : report.predictions) lines += line + "\n";
    write_file_atomic(a.predictions, lines);
  }
  if (a.json.empty()) return;
  Json json = {{"task", report.task}, {"data", a.data}, {"model", a.model}, {"n", report.n}};
  for (const auto& [name, value] : report.figures) json[name] = value;
  json["seconds"] = seconds;
  write_file_atomic(a.json, json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace

int cmd_eval(int argc, const char* const* argv) {
  EvalArgs a;
  Args args(
      "eval",
      "Measures a model on a task. Data may be plain, .gz, .xz or .zst; usual layouts are recognised (docs/evaluation.md).",
      "  rhetor eval runs/quickstart --task perplexity --data book.txt --json result.json\n"
      "  rhetor eval runs/gpt --task choice --data mmlu_test.jsonl --shots 5 --shots-from mmlu_dev.jsonl\n"
      "  rhetor eval runs/bert-qa --task squad --data dev-v2.0.json --predictions answers.jsonl\n"
      "  rhetor eval --task squad --data dev-v2.0.json --score predictions.json --no-answer na_prob.json\n"
      "  rhetor eval runs/bert-pair --task classification --data RTE/dev.tsv --text sentence1 --pair sentence2 --label label");
  args.positional("model", a.model, "model folder (or, for language models, a plan file)", false)
      .option("--model", a.model_option, "the same")
      .choice("--task", a.task, "what to measure",
              {"squad", "classification", "regression", "tagging", "choice", "ranking", "lastword", "perplexity"})
      .option("--data", a.data, "the file with the examples")
      .option("--limit", a.limit, "only the first so many examples (ranking: queries), 0 = all", 0, std::int64_t{1} << 40)
      .option("--json", a.json, "write every figure to this file")
      .option("--predictions", a.predictions, "write one JSON line an example to this file")
      .option("--text", a.fields.text, "field or column (name, or number from 1) of the text, question or query")
      .option("--pair", a.fields.pair, "of the second text, passage or document; '-' = there is none")
      .option("--label", a.fields.label, "of the label, score, answer or relevance")
      .option("--choices", a.fields.choices, "choice: field of the list, or one --choices a choice")
      .option("--shots", a.shots, "choice: solved examples before each question", 0, 64)
      .option("--shots-from", a.shots_from, "choice: file of those examples; otherwise other questions of the data")
      .option("--score", a.score, "squad: score this {id: answer} file, without a model")
      .option("--no-answer", a.no_answer, "squad: with --score, {id: probability that there is no answer}")
      .option("--threshold", a.threshold, "squad: no answer above this (gap of scores; with --no-answer: probability)", -1e9, 1e9)
      .option("--stride", a.stride, "squad: tokens that windows of a long passage share", 0, 1 << 20)
      .option("--max-answer", a.max_answer, "squad: longest answer in tokens", 1, 1 << 20)
      .option("--documents", a.documents, "ranking: JSON list of documents, when --data holds the queries of a collection")
      .option("--judgements", a.judgements, "ranking: JSON list of which document is relevant to which query")
      .option("--max-tokens", a.max_tokens, "perplexity: stop after this many tokens, 0 = all", 0, std::int64_t{1} << 40)
      .option("--slots", a.slots, "choice, lastword: sequences scored together", 1, 32)
      .flag("--quiet", a.quiet, "no progress lines");
  a.machine.add_to(args);
  if (!args.parse(argc, argv)) return 0;
  if (a.model.empty()) a.model = a.model_option;
  if (a.data.empty()) fail("rhetor eval --task {} needs data: give it with --data FILE", a.task);
  if (!a.score.empty() && a.task != "squad") fail("--score is for --task squad; the task is {}", a.task);
  if (a.model.empty() && a.score.empty())
    fail("rhetor eval needs a model: rhetor eval FOLDER --task {} --data {}", a.task, a.data);
  a.machine.apply();
  const auto start = Clock::now();
  const EvalReport report = run_task(a);
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  print_report(report, seconds);
  write_report(a, report, seconds);
  return 0;
}

}  // namespace rhetor
