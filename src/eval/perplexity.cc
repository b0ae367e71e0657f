#include "eval/perplexity.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <numbers>

#include "base/error.h"
#include "data/corpus.h"

namespace rhetor {
namespace {

constexpr std::int32_t kIgnored = -100;

// All documents as one stream, each followed by <|endoftext|> as in training.
std::vector<TokenId> read_tokens(const Tokenizer& tokenizer, const std::filesystem::path& text, std::int64_t max_tokens) {
  Corpus corpus({text});
  const TokenId end = tokenizer.special("<|endoftext|>");
  std::vector<TokenId> out;
  std::string document;
  while (corpus.next(document)) {
    // Special tokens in the text count as such: training data of chats is rendered with them.
    const auto ids = tokenizer.encode(document, true);
    out.insert(out.end(), ids.begin(), ids.end());
    if (end >= 0) out.push_back(end);
    if (max_tokens > 0 && static_cast<std::int64_t>(out.size()) >= max_tokens) {
      out.resize(static_cast<std::size_t>(max_tokens));
      break;
    }
  }
  return out;
}

}  // namespace

PerplexityResult perplexity(const Model& model, const std::filesystem::path& text, std::int64_t max_tokens, int threads) {
  if (model.config.family == "bert")
    fail("perplexity is defined for models that predict the next token; '{}' is a bert model", model.name);
  if (!model.tokenizer) fail("the model '{}' has no tokenizer; perplexity of a text needs one", model.name);
  const auto start = std::chrono::steady_clock::now();
  const std::vector<TokenId> tokens = read_tokens(*model.tokenizer, text, max_tokens);
  const auto total = static_cast<std::int64_t>(tokens.size());
  if (total < 2) fail("'{}' has {} tokens; at least 2 are needed to score one", text.string(), total);

  const std::int64_t seq = std::min(model.config.context, total - 1), windows = (total - 1 + seq - 1) / seq;
  // Enough rows to keep the cores busy, few enough that the logits [rows, V] stay small.
  const std::int64_t batch = std::clamp<std::int64_t>(2048 / seq, 1, std::min<std::int64_t>(windows, 8));
  BuildSpec spec;
  spec.task = BuildSpec::Task::loss;
  spec.batch = batch;
  spec.seq = seq;
  std::unique_ptr<ThreadPool> pool;
  CompileOptions options = compile_options_for(model.config);
  if (threads > 0) {
    pool = std::make_unique<ThreadPool>(threads);
    options.pool = pool.get();
  }
  Session session(compile(build_model(model.config, spec), model.weights, options));
  auto inputs = session.input("tokens").data<std::int32_t>();
  auto targets = session.input("targets").data<std::int32_t>();

  PerplexityResult out;
  double sum = 0;
  for (std::int64_t window = 0; window < windows; window += batch) {
    std::fill(inputs.begin(), inputs.end(), 0);
    std::fill(targets.begin(), targets.end(), kIgnored);
    for (std::int64_t row = 0; row < batch; ++row) {
      const std::int64_t at = (window + row) * seq;
      for (std::int64_t i = 0; i < seq && at + i + 1 < total; ++i) {
        const auto to = static_cast<std::size_t>(row * seq + i);
        inputs[to] = tokens[static_cast<std::size_t>(at + i)];
        targets[to] = tokens[static_cast<std::size_t>(at + i + 1)];
        ++out.tokens;
        const TokenId target = targets[to];
        out.bytes +=
            model.tokenizer->is_special(target) ? 0 : static_cast<std::int64_t>(model.tokenizer->token_bytes(target).size());
      }
    }
    session.run();
    for (const float loss : session.output("token_loss").data<float>()) sum += static_cast<double>(loss);  // ignored rows are 0
  }
  out.loss = sum / static_cast<double>(out.tokens);
  out.perplexity = std::exp(out.loss);
  out.bits_per_byte = out.bytes > 0 ? sum / std::numbers::ln2 / static_cast<double>(out.bytes) : 0;
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return out;
}

}  // namespace rhetor
