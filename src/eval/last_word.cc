#include "eval/last_word.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "data/corpus.h"

namespace rhetor {
namespace {

constexpr std::string_view kBlank = " \t\r\n";

}  // namespace

bool split_last_word(std::string_view passage, LastWord& out) {
  const std::size_t last = passage.find_last_not_of(kBlank);
  if (last == std::string_view::npos) return false;
  passage = passage.substr(0, last + 1);
  const std::size_t gap = passage.find_last_of(kBlank);
  if (gap == std::string_view::npos) return false;
  const std::size_t end = passage.find_last_not_of(kBlank, gap);
  if (end == std::string_view::npos) return false;
  out = {std::string(passage.substr(0, end + 1)), " " + std::string(passage.substr(gap + 1))};
  return true;
}

std::vector<LastWord> read_last_words(const std::string& path, std::int64_t limit) {
  std::vector<LastWord> out;
  const auto full = [&] { return limit > 0 && static_cast<std::int64_t>(out.size()) >= limit; };
  const auto add = [&](std::string_view passage, const std::string& where) {
    LastWord item;
    if (!split_last_word(passage, item)) fail("{}: a passage needs at least two words", where);
    out.push_back(std::move(item));
  };
  const std::string text = read_unpacked(path);
  const std::size_t first = text.find_first_not_of(kBlank);
  if (first != std::string::npos && (text[first] == '{' || text[first] == '[')) {
    for (const JsonRecord& record : read_json_records(path, limit)) {
      const auto json = nlohmann::json::parse(record.text, nullptr, false);
      if (!json.is_object() || !json.contains("text") || !json["text"].is_string())
        fail("{}: expected an object with a \"text\"", record.where);
      add(json["text"].get_ref<const std::string&>(), record.where);
    }
    return out;
  }
  each_line(text, [&](std::string_view row, std::uint64_t line) {
    if (!is_blank(row)) add(row, fmt::format("'{}' line {}", path, line));
    return !full();
  });
  if (out.empty()) fail("'{}' holds no passages", path);
  return out;
}

EvalReport evaluate_last_word(const LanguageModel& model, std::span<const LastWord> items, const EvalProgress& progress,
                              std::int64_t slots) {
  if (!model.tokenizer()) fail("the model '{}' has no tokenizer; passages are texts", model.name());
  EvalReport report{.task = "lastword", .n = static_cast<std::int64_t>(items.size())};
  constexpr std::size_t kBatch = 32;
  double right = 0, sum = 0, tokens = 0, cut = 0;
  for (std::size_t begin = 0; begin < items.size(); begin += kBatch) {
    const std::size_t end = std::min(items.size(), begin + kBatch);
    std::vector<Continuation> wanted;
    for (std::size_t i = begin; i < end; ++i) {
      wanted.push_back(split_continuation(*model.tokenizer(), items[i].before, items[i].word));
      cut += cut_to_context(wanted.back(), model.config().context) > 0;
    }
    const auto scores = score(model, wanted, slots);
    for (std::size_t i = begin; i < end; ++i) {
      const Score& s = scores[i - begin];
      right += s.greedy, sum += s.logprob, tokens += static_cast<double>(s.tokens.size());
      report.predictions.push_back(
          nlohmann::ordered_json{{"index", i}, {"word", items[i].word}, {"right", s.greedy}, {"logprob", s.logprob}}.dump(
              -1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
    }
    if (progress) progress(static_cast<std::int64_t>(end), report.n);
  }
  const auto n = static_cast<double>(items.size());
  report.add("accuracy", right / n);
  report.add("perplexity", std::exp(-sum / n));
  report.add("tokens_per_word", tokens / n);
  report.add("cut", cut);
  return report;
}

}  // namespace rhetor
