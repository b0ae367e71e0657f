// rhetor quickstart: text in, a trained, compressed, compiled, answering model out.
#include <algorithm>
#include <cctype>
#include <chrono>
#include <cmath>
#include <cstdio>

#include "base/error.h"
#include "base/file.h"
#include "cli/args.h"
#include "cli/commands.h"
#include "cli/machine_args.h"
#include "cli/output.h"
#include "cli/quickstart_report.h"
#include "cpu/kernel.h"
#include "data/corpus.h"
#include "generate/chat_window.h"
#include "generate/plan_model.h"
#include "passes/memory.h"

namespace rhetor {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point start) { return std::chrono::duration<double, std::milli>(Clock::now() - start).count(); }

struct Source {
  std::vector<std::string> files;
  std::string name, folder;
  std::uint64_t bytes = 0;
  bool shipped = false;   // the text written for Rhetor: it holds dialogues
};

// The run folder's name carries a hash of the text, so another text never continues this one's training.
Source source_of(const std::vector<std::string>& texts) {
  Source source;
  source.shipped = texts.empty();
  source.files = texts.empty() ? std::vector<std::string>{resource("stories/harbour.txt").string()} : texts;
  std::uint64_t hash = 0;
  for (std::string& file : source.files) {
    file = fs::absolute(file).string();
    const auto mapped = MappedFile::open(file);
    if (mapped->bytes().empty()) fail("'{}' is empty; the quickstart needs a text of at least a few kilobytes", file);
    hash = hash64(mapped->bytes(), hash + 1);
    source.bytes += mapped->bytes().size();
  }
  std::string stem = fs::path(source.files[0]).stem().string();
  for (char& c : stem)
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '_') c = '-';   // a folder name that needs no quotes
  source.name = source.shipped ? "the harbour stories"
                               : stem + (source.files.size() > 1 ? fmt::format(" and {} more", source.files.size() - 1) : "");
  source.folder = source.shipped ? "quickstart" : fmt::format("quickstart-{}-{:08x}", stem, static_cast<std::uint32_t>(hash));
  return source;
}

Recipe quickstart_recipe(const Source& source, const fs::path& folder, double minutes) {
  Recipe recipe;
  recipe.family = "gpt2";
  recipe.layers = 4;
  recipe.hidden = 128;
  recipe.heads = 4;
  recipe.context = 256;
  recipe.vocab = 1024;
  recipe.files = source.files;
  // A short text gives a larger share, so that there is a whole sequence to validate on.
  recipe.validation = std::clamp(4000.0 / static_cast<double>(source.bytes), 0.03, 0.2);
  // Many small steps learn a small text best in a given time: of eight shapes tried for 80 s, this had the lowest validation
  // loss.
  recipe.batch = 4;
  recipe.lr = 3e-3;
  if (cpu_isa() >= Isa::avx512_bf16) recipe.precision = "bf16";
  recipe.minutes = minutes;
  recipe.validate_every = 200;
  recipe.checkpoint_every = 500;
  recipe.folder = folder.string();
  return recipe;
}

struct Prompt {
  std::string text;
  bool chat = false;
};

// Questions for the shipped dialogues and for a user's own; openings of the user's paragraphs otherwise.
std::vector<Prompt> prompts_for(const Source& source) {
  if (source.shipped)
    return {{"Hello!", true}, {"Where does Ada Finch live?", true}, {"What is Rhetor?", true}};
  constexpr std::string_view kUser = "<|user|>";
  Corpus corpus({source.files.begin(), source.files.end()});
  std::vector<Prompt> prompts;
  std::string document;
  while (prompts.size() < 3 && corpus.next(document)) {
    if (const std::size_t turn = document.find(kUser); turn != std::string::npos) {
      const std::size_t begin = turn + kUser.size();
      prompts.push_back({document.substr(begin, document.find("<|", begin) - begin), true});
      continue;
    }
    for (const std::size_t share : {0u, 1u, 2u}) {
      std::size_t begin = document.size() * share / 3;
      while (begin > 0 && begin < document.size() && document[begin - 1] != ' ' && document[begin - 1] != '\n') ++begin;
      const std::string words = document.substr(begin, 60);
      const std::size_t cut = words.find_last_of(" \n");
      if (cut != std::string::npos && cut > 10 && prompts.size() < 3) prompts.push_back({words.substr(0, cut), false});
    }
  }
  return prompts;
}

QuickstartAnswer ask(const LanguageModel& model, const Prompt& question) {
  const auto& [prompt, chat] = question;
  Sampling sampling;
  sampling.temperature = chat ? 0.0 : 0.7;
  sampling.top_k = 40;
  sampling.seed = 7;
  sampling.max_tokens = 80;
  fmt::print("{}{}", chat ? "\n> " : "\n", prompt + (chat ? "\n" : ""));
  const ChatWindow window(model);
  const auto ids = chat ? window.fit({{"user", prompt}}, sampling.max_tokens).tokens : window.encode(prompt);
  const Generation result = generate(model, ids, chat ? window.conversing(sampling) : sampling, [](std::string_view piece) {
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    return std::fflush(stdout) == 0;
  });
  fmt::print("\n");
  return {prompt, result.text, result.first_token_ms, result.tokens_per_s()};
}

// The compression report, kept beside the model so that a second run need not measure again.
struct ReportField {
  const char* name;
  double CompressReport::* value;
};
constexpr ReportField kReportFields[] = {{"loss_before", &CompressReport::loss_before},
                                         {"loss_after", &CompressReport::loss_after},
                                         {"tokens_per_s_before", &CompressReport::tokens_per_s_before},
                                         {"tokens_per_s_after", &CompressReport::tokens_per_s_after},
                                         {"latency_ms_before", &CompressReport::latency_ms_before},
                                         {"latency_ms_after", &CompressReport::latency_ms_after}};

void write_report(const fs::path& path, const CompressReport& report) {
  std::vector<JsonField> fields{{"bytes_before", static_cast<std::int64_t>(report.bytes_before)},
                                {"bytes_after", static_cast<std::int64_t>(report.bytes_after)}};
  for (const auto& [name, value] : kReportFields) fields.emplace_back(name, report.*value);
  write_json(path.string(), fields);
}

bool read_report(const fs::path& path, CompressReport& report) {
  const auto numbers = read_json_numbers(path.string());
  if (!numbers.contains("bytes_before") || !numbers.contains("bytes_after")) return false;
  report.bytes_before = static_cast<std::uint64_t>(numbers.at("bytes_before"));
  report.bytes_after = static_cast<std::uint64_t>(numbers.at("bytes_after"));
  for (const auto& [name, value] : kReportFields) {
    if (!numbers.contains(name)) return false;
    report.*value = numbers.at(name);
  }
  return true;
}

bool is_fresh(const fs::path& made, const fs::path& from) {
  std::error_code missing;
  const auto made_at = fs::last_write_time(made, missing);
  if (missing) return false;
  const auto from_at = fs::last_write_time(from, missing);
  return !missing && made_at >= from_at;
}

}  // namespace

int cmd_quickstart(int argc, const char* const* argv) {
  std::vector<std::string> texts;
  std::string runs = "runs", report = "report.html", json;
  double minutes = 2.2;
  bool fresh = false;
  MachineArgs machine;
  Args args(
      "quickstart",
      "Trains a tokenizer and a small GPT on a text, quantises it to int8, compiles it to a plan file, answers a few prompts\n"
      "and writes report.html. Run again, it reuses what is there.",
      "  rhetor quickstart\n  rhetor quickstart my-notes.txt\n  rhetor quickstart book1.txt book2.txt.gz --minutes 5");
  args.positionals("text", texts, "text or JSONL files, plain or compressed (default: the stories that ship with Rhetor)", false)
      .option("--minutes", minutes, "training time", 0.02, 10000.0)
      .option("--runs", runs, "folder for the results")
      .option("--report", report, "report to write")
      .flag("--fresh", fresh, "train anew")
      .option("--json", json, "write the numbers to this file");
  machine.add_to(args);
  if (!args.parse(argc, argv)) return 0;
  machine.apply();
  const auto start = Clock::now();

  const Source source = source_of(texts);
  const fs::path folder = fs::path(runs) / source.folder;
  QuickstartSummary summary;
  summary.text_name = source.name;
  summary.text_bytes = source.bytes;
  summary.machine = cpu_description();

  fmt::print("1/4 train a tokenizer and a small GPT on {} ({})\n", source.name, human_bytes(source.bytes));
  std::fflush(stdout);
  summary.training = train(quickstart_recipe(source, folder, minutes), {.fresh = fresh});
  const fs::path model_folder = summary.training.model_folder;
  if (summary.training.stopped) {
    fmt::print("stopped; run the same command to go on\n");
    return 1;
  }

  const fs::path int8_folder = folder / "int8", compress_report = folder / "compress.json";
  if (!fresh && is_fresh(int8_folder / "model.safetensors", model_folder / "model.safetensors") &&
      read_report(compress_report, summary.compression)) {
    fmt::print("2/4 the int8 model is up to date\n");
  } else {
    fmt::print("2/4 quantise to int8\n");
    std::fflush(stdout);
    summary.compression = compress_int8(model_folder, int8_folder, source.files[0]);
    write_report(compress_report, summary.compression);
  }

  const fs::path plan = folder / "model.plan";
  const auto compile_start = Clock::now();
  if (fresh || !is_fresh(plan, int8_folder / "model.safetensors")) {
    fmt::print("3/4 compile to a plan file\n");
    compile_to_plan(int8_folder, plan, {}, {1, 2, 4});
    summary.compile_ms = ms_since(compile_start);
  } else {
    fmt::print("3/4 the plan file is up to date\n");
  }
  summary.plan_bytes = fs::file_size(plan);

  fmt::print("4/4 answer from the plan\n");
  const auto open_start = Clock::now();
  const LanguageModelPtr model = open_language_model(plan);
  const ExecutablePtr decode = model->cached(1, 1);
  summary.plan_open_ms = ms_since(open_start);
  summary.config = model->config();
  for (const Prompt& prompt : prompts_for(source)) summary.answers.push_back(ask(*model, prompt));

  summary.total_seconds = ms_since(start) / 1000;
  fmt::print("{}", quickstart_card(summary));
  write_file_atomic(report, quickstart_report(summary, read_file(summary.training.curve_file),
                                              memory_map_svg(decode->graph(), decode->memory())));
  write_json(json, {{"parameters", summary.training.parameters},
                    {"steps", summary.training.steps},
                    {"first_loss", summary.training.first_loss},
                    {"validation_loss", summary.training.validation_loss},
                    {"tokens_per_s", summary.training.tokens_per_s},
                    {"bytes_f32", static_cast<std::int64_t>(summary.compression.bytes_before)},
                    {"bytes_int8", static_cast<std::int64_t>(summary.compression.bytes_after)},
                    {"loss_f32", summary.compression.loss_before},
                    {"loss_int8", summary.compression.loss_after},
                    {"decode_tokens_per_s_f32", summary.compression.tokens_per_s_before},
                    {"decode_tokens_per_s_int8", summary.compression.tokens_per_s_after},
                    {"plan_open_ms", summary.plan_open_ms},
                    {"seconds", summary.total_seconds}});
  fmt::print("\nreport  {}\nchat    rhetor chat {}\nserve   rhetor serve {} --port 8080   then open http://127.0.0.1:8080/\n",
             report, plan.string(), plan.string());
  return 0;
}

}  // namespace rhetor
