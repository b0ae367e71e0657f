#include "eval/perplexity.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <numbers>

#include "base/error.h"
#include "data/batches.h"
#include "data/corpus.h"
#include "generate/logprobs.h"
#include "text/token_roles.h"

namespace rhetor {
namespace {

constexpr std::int32_t kIgnored = -100;

// All documents as one stream, each followed by <|endoftext|> as in training; `starts` (if given) receives where each begins.
std::vector<TokenId> read_tokens(const Tokenizer& tokenizer, const ChatTemplatePtr& chat, const std::filesystem::path& text,
                                 std::int64_t max_tokens, std::vector<std::int64_t>* starts = nullptr) {
  CorpusOptions options;
  options.converse(tokenizer, chat);
  Corpus corpus({text}, options);
  const TokenId end = token_for(tokenizer, TokenRole::end_of_text);
  std::vector<TokenId> out;
  std::string document;
  while (corpus.next(document)) {
    // Special tokens in the text count as such: training data of chats is rendered with them.
    if (starts) starts->push_back(static_cast<std::int64_t>(out.size()));
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

// What both ways of measuring share: the text as tokens and windows, and the sums.
struct Scoring {
  Scoring(const ModelConfig& config, const TokenizerPtr& t, const ChatTemplatePtr& chat, const std::string& name,
          const std::filesystem::path& text, std::int64_t max_tokens)
      : model_name(name), tokenizer(t) {
    if (config.family == "bert") fail("perplexity is defined for models that predict the next token; '{}' is a bert model", name);
    if (!tokenizer) fail("the model '{}' has no tokenizer; perplexity of a text needs one", name);
    tokens = read_tokens(*tokenizer, chat, text, max_tokens);
    total = static_cast<std::int64_t>(tokens.size());
    if (total < 2) fail("'{}' has {} tokens; at least 2 are needed to score one", text.string(), total);
    seq = std::min(config.context, total - 1);
    windows = (total - 1 + seq - 1) / seq;
  }
  // Token `i` of window `w` and the one after it; false beyond the end of the text.
  bool pair(std::int64_t w, std::int64_t i, TokenId& input, TokenId& target) const {
    const std::int64_t at = w * seq + i;
    if (at + 1 >= total) return false;
    input = tokens[static_cast<std::size_t>(at)];
    target = tokens[static_cast<std::size_t>(at + 1)];
    return true;
  }
  void count(TokenId target) {
    ++out.tokens;
    out.bytes += tokenizer->is_special(target) ? 0 : static_cast<std::int64_t>(tokenizer->token_bytes(target).size());
  }
  PerplexityResult result(double sum) {
    if (!std::isfinite(sum))
      fail("the loss of the model '{}' on this text is not a finite number: its weights are damaged or its training diverged",
           model_name);
    out.loss = sum / static_cast<double>(out.tokens);
    out.perplexity = std::exp(out.loss);
    out.bits_per_byte = out.bytes > 0 ? sum / std::numbers::ln2 / static_cast<double>(out.bytes) : 0;
    out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return out;
  }

  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  std::string model_name;
  TokenizerPtr tokenizer;
  std::vector<TokenId> tokens;
  std::int64_t total = 0, seq = 0, windows = 0;
  PerplexityResult out;
};

}  // namespace

PerplexityResult perplexity(const Model& model, const std::filesystem::path& text, std::int64_t max_tokens, int threads) {
  Scoring scoring(model.config, model.tokenizer, model.chat_template, model.name, text, max_tokens);
  const std::int64_t seq = scoring.seq;
  // Enough rows to keep the cores busy, few enough that the logits [rows, V] stay small.
  const std::int64_t batch = std::clamp<std::int64_t>(2048 / seq, 1, std::min<std::int64_t>(scoring.windows, 8));
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
  double sum = 0;
  for (std::int64_t window = 0; window < scoring.windows; window += batch) {
    std::fill(inputs.begin(), inputs.end(), 0);
    std::fill(targets.begin(), targets.end(), kIgnored);
    for (std::int64_t row = 0; row < batch; ++row) {
      for (std::int64_t i = 0; i < seq; ++i) {
        const auto to = static_cast<std::size_t>(row * seq + i);
        if (!scoring.pair(window + row, i, inputs[to], targets[to])) break;
        scoring.count(targets[to]);
      }
    }
    session.run();
    for (const float loss : session.output("token_loss").data<float>()) sum += static_cast<double>(loss);  // ignored rows are 0
  }
  return scoring.result(sum);
}

PerplexityResult perplexity(const LanguageModel& model, const std::filesystem::path& text, std::int64_t max_tokens) {
  Scoring scoring(model.config(), model.tokenizer(), model.chat_template(), model.name(), text, max_tokens);
  // Each row of a decode step is a window of its own; more than 8 rows gain little and need a cache each.
  std::int64_t batch = 1;
  for (const std::int64_t size : model.decode_batches())
    if (size <= 8 && batch < scoring.windows) batch = std::max(batch, size);
  Session session(model.cached(batch, 1));
  auto inputs = session.input("tokens").data<std::int32_t>();
  auto positions = session.input("positions").data<std::int32_t>();
  auto last = session.input("last").data<std::int32_t>();
  std::fill(last.begin(), last.end(), 0);
  const Tensor& logits = session.output("logits");
  const auto width = static_cast<std::size_t>(logits.shape().last());
  std::vector<TokenId> targets(static_cast<std::size_t>(batch));
  double sum = 0;
  for (std::int64_t window = 0; window < scoring.windows; window += batch) {
    for (std::int64_t i = 0; i < scoring.seq; ++i) {
      bool any = false;
      for (std::size_t row = 0; row < targets.size(); ++row) {
        positions[row] = static_cast<std::int32_t>(i);
        targets[row] = kIgnored;
        if (!scoring.pair(window + static_cast<std::int64_t>(row), i, inputs[row], targets[row])) inputs[row] = 0;
        any |= targets[row] != kIgnored;
      }
      if (!any) break;
      session.run();
      for (std::size_t row = 0; row < targets.size(); ++row) {
        if (targets[row] == kIgnored) continue;
        sum -= token_logprob(logits.data<float>().subspan(row * width, width), targets[row], 0, 0).logprob;
        scoring.count(targets[row]);
      }
    }
  }
  return scoring.result(sum);
}

PerplexityResult perplexity(const std::filesystem::path& model, const std::filesystem::path& text, std::int64_t max_tokens,
                            int threads) {
  std::error_code ignored;
  if (std::filesystem::is_directory(model, ignored)) return perplexity(*load_model(model), text, max_tokens, threads);
  std::unique_ptr<ThreadPool> pool;
  OpenOptions options;
  if (threads > 0) {
    pool = std::make_unique<ThreadPool>(threads);
    options.compile.pool = pool.get();
  }
  return perplexity(*open_language_model(model, options), text, max_tokens);
}

MaskedLossResult masked_loss(const Model& model, const std::filesystem::path& text, std::int64_t max_tokens) {
  if (model.config.family != "bert")
    fail("the masked-token loss is that of bert models; '{}' is a {} model", model.name, model.config.family);
  if (!model.tokenizer) fail("the model '{}' has no tokenizer; the loss on a text needs one", model.name);
  std::vector<std::int64_t> starts;
  const std::vector<TokenId> tokens = read_tokens(*model.tokenizer, model.chat_template, text, max_tokens, &starts);
  const auto total = static_cast<std::int64_t>(tokens.size());
  std::erase_if(starts, [&](std::int64_t at) { return at >= total; });
  BuildSpec spec;
  spec.task = BuildSpec::Task::pretrain;
  spec.seq = std::min<std::int64_t>(model.config.context, 128);
  if (total < spec.seq + 1)
    fail("'{}' has {} tokens; a window of {} and its neighbour are needed", text.string(), total, spec.seq);
  spec.batch = std::clamp<std::int64_t>(total / spec.seq, 1, 8);
  Session session(compile(build_model(model.config, spec), model.weights, compile_options_for(model.config)));
  constexpr std::uint64_t kMaskSeed = 20240229;  // fixed: the same masks for every model
  const std::int64_t batches = std::max<std::int64_t>(1, total / (spec.batch * spec.seq));
  MaskedLossResult out;
  double sum = 0;
  for (std::int64_t i = 0; i < batches; ++i) {
    const MlmBatch batch =
        mlm_batch(tokens, starts, *model.tokenizer, spec.batch, spec.seq, kMaskSeed, static_cast<std::uint64_t>(i));
    for (const auto& [name, tensor] : {std::pair{"tokens", &batch.inputs},
                                       {"segments", &batch.segments},
                                       {"lengths", &batch.lengths},
                                       {"targets", &batch.targets},
                                       {"next_sentence", &batch.next_sentence}})
      std::memcpy(session.input(name).raw(), tensor->raw(), tensor->bytes());
    session.run();
    sum += session.output("mlm_loss").at(0);
    out.tokens += spec.batch * spec.seq;
  }
  out.loss = sum / static_cast<double>(batches);
  if (!std::isfinite(out.loss))
    fail("the loss of the model '{}' on this text is not a finite number: its weights are damaged or its training diverged",
         model.name);
  return out;
}

}  // namespace rhetor
