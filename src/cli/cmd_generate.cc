// rhetor generate, rhetor chat.
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "cli/args.h"
#include "cli/commands.h"
#include "cli/machine_args.h"
#include "cli/output.h"
#include "cli/sampling_args.h"
#include "generate/chat_window.h"
#include "generate/generator.h"
#include "generate/text_to_text.h"

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

using Json = nlohmann::ordered_json;

Json token_json(const Tokenizer& tokenizer, TokenId id, double logprob) {
  return {{"token", tokenizer.token_bytes(id)}, {"id", id}, {"logprob", logprob}};
}

Json answer_json(const Tokenizer& tokenizer, const Generation& answer) {
  Json out = {{"text", answer.text}, {"tokens", answer.tokens.size()}, {"finish", name(answer.finish)}};
  if (answer.score != 0) out["score"] = answer.score;
  for (const TokenLogprob& token : answer.logprobs) {
    Json row = token_json(tokenizer, token.id, token.logprob);
    for (const auto& [id, logprob] : token.top) row["top"].push_back(token_json(tokenizer, id, logprob));
    out["logprobs"].push_back(std::move(row));
  }
  return out;
}

void write_answers(const std::string& path, const Tokenizer& tokenizer, const std::vector<Generation>& answers) {
  if (path.empty()) return;
  const Generation& first = answers[0];
  Json json = {{"text", first.text},
               {"prompt_tokens", first.prompt_tokens},
               {"tokens", first.tokens.size()},
               {"finish", name(first.finish)},
               {"first_token_ms", first.first_token_ms},
               {"total_ms", first.total_ms},
               {"tokens_per_s", first.tokens_per_s()}};
  for (const Generation& answer : answers) json["answers"].push_back(answer_json(tokenizer, answer));
  write_file_atomic(path, json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

// One line a token: its text, its log-probability, the likeliest others.
void print_logprobs(const Tokenizer& tokenizer, const Generation& answer) {
  const auto shown = [&](TokenId id) {
    return Json(tokenizer.token_bytes(id)).dump(-1, ' ', false, Json::error_handler_t::replace);
  };
  for (const TokenLogprob& token : answer.logprobs) {
    fmt::print("{:>9.4f}  {}", token.logprob, shown(token.id));
    for (const auto& [id, logprob] : token.top) fmt::print("   {} {:.4f}", shown(id), logprob);
    fmt::print("\n");
  }
}

}  // namespace

int cmd_generate(int argc, const char* const* argv) {
  std::string path, prompt, json;
  SamplingArgs sampling_args;
  MachineArgs machine;
  bool chat = false, quiet = false;
  Args args("generate", "Continues a prompt, streaming. MODEL is a model folder or a plan file.",
            "  rhetor generate runs/quickstart \"The harbour\"\n"
            "  rhetor generate runs/quickstart/model.plan \"Who keeps the lighthouse?\" --chat --temperature 0\n"
            "  rhetor generate runs/quickstart \"The harbour\" --beams 4 --n 2 --logprobs 3");
  args.positional("model", path, "model folder or plan file").positional("prompt", prompt, "text to continue");
  sampling_args.add_to(args);
  sampling_args.add_answers_to(args);
  args.flag("--chat", chat, "treat the prompt as a user's message, in the model's own chat template")
      .flag("--quiet", quiet, "print the continuation only")
      .option("--json", json, "write text and timings to this file");
  machine.add_to(args);
  if (!args.parse(argc, argv)) return 0;
  machine.apply();
  const Sampling asked = sampling_args.get();
  if (is_text_to_text(path)) {
    fmt::print("{}\n", TextToText(load_model(path)).answer(prompt, asked.max_tokens));
    return 0;
  }
  const LanguageModelPtr model = open_language_model(path);
  const ChatWindow window(*model);
  const Sampling sampling = chat ? window.conversing(asked) : asked;
  const std::vector<TokenId> ids = chat ? window.fit({{"user", prompt}}, sampling.max_tokens).tokens : window.encode(prompt);
  std::vector<Generation> answers;
  if (sampling.n == 1) {
    if (!chat && !quiet) print_piece(prompt);
    answers.push_back(generate(*model, ids, sampling, print_piece));
    fmt::print("\n");
  } else {
    answers = generate_n(*model, ids, sampling);
  }
  for (const Generation& answer : answers) {
    if (sampling.n > 1)
      fmt::print("{}[{}] {}{}\n", answer.index ? "\n" : "", answer.index + 1, chat || quiet ? "" : prompt, answer.text);
    print_logprobs(*model->tokenizer(), answer);
    if (quiet) continue;
    const std::string score = sampling.beams > 1 ? fmt::format(", score {:.4f}", answer.score) : "";
    fmt::print(stderr, "[{} tokens, first after {:.1f} ms, {:.0f} tokens/s, finish: {}{}]\n", answer.tokens.size(),
               answer.first_token_ms, answer.tokens_per_s(), name(answer.finish), score);
  }
  write_answers(json, *model->tokenizer(), answers);
  return 0;
}

int cmd_chat(int argc, const char* const* argv) {
  std::string path, system;
  SamplingArgs sampling_args({.temperature = 0.5});
  Args args("chat", "Talks to a model in the terminal. An empty line or Ctrl-D ends; /reset forgets the conversation.",
            "  rhetor chat runs/quickstart/model.plan");
  args.positional("model", path, "model folder or plan file").option("--system", system, "how the model should behave");
  sampling_args.add_to(args);
  if (!args.parse(argc, argv)) return 0;
  const Sampling asked = sampling_args.get();  // a wrong option is told before a large model is opened
  const LanguageModelPtr model = open_language_model(path);
  const bool terminal = isatty(STDIN_FILENO);
  if (terminal)
    fmt::print("{} ({} parameters on disk). Say something; an empty line ends.\n", model->name(),
               human_bytes(model->weight_bytes()));
  const ChatWindow window(*model);
  Sampling sampling = window.conversing(asked);
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
