#include "generate/encoder_model.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "data/span_search.h"
#include "generate/encoder_runner.h"

namespace rhetor {
namespace {

using Task = BuildSpec::Task;

void softmax(std::vector<double>& x) {
  const double top = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (double& v : x) sum += v = std::exp(v - top);
  for (double& v : x) v /= sum;
}

// Row `row` of an output [batch, ...].
std::span<const float> row_of(const Session& session, const char* name, std::int64_t row) {
  const Tensor& out = session.output(name);
  const auto width = static_cast<std::size_t>(out.elements() / out.shape()[0]);
  return out.data<float>().subspan(static_cast<std::size_t>(row) * width, width);
}

class Encoder final : public EncoderModel {
 public:
  Encoder(ModelPtr model, const CompileOptions& compile) : model_(std::move(model)), runner_(model_, compile) {
    if (!model_->tokenizer)
      fail(ErrorKind::not_found, "the model '{}' has no tokenizer.json; without it there is no text, only numbers", model_->name);
    if (const TaskKind* kind = find_task_kind(config().task)) {
      task_ = kind->task;
    } else {
      // Folders that do not say: a head whose weights are there can be used.
      const auto has = [&](const std::string& name) {
        // Compressed forms are called "NAME.weight.int8" and the like.
        const auto found = model_->weights.lower_bound(name + ".weight");
        return found != model_->weights.end() && found->first.starts_with(name + ".weight");
      };
      const bool classifier = has("classifier") || has("score");
      if (has("qa_outputs")) task_ = Task::span;
      if (classifier && config().labels >= 1) task_ = config().labels == 1 ? Task::regress : Task::classify;
    }
  }
  const ModelConfig& config() const override { return model_->config; }
  const std::string& name() const override { return model_->name; }
  const TokenizerPtr& tokenizer() const override { return model_->tokenizer; }
  std::int64_t tokens(const TextPair& text) const override { return static_cast<std::int64_t>(encode(text).ids.size()); }
  bool can_embed() const override { return true; }
  bool can_classify() const override { return task_ == Task::classify || task_ == Task::regress; }
  bool can_answer() const override { return task_ == Task::span; }
  bool can_tag() const override { return task_ == Task::tag; }
  bool can_rank() const override { return true; }
  bool can_choose() const override { return task_ == Task::choice; }

  std::vector<std::vector<float>> embed(std::span<const std::string> texts) const override;
  std::vector<std::vector<Label>> classify(std::span<const TextPair> texts) const override;
  std::vector<SpanAnswer> answer(const std::string& question, const std::string& passage,
                                 const AskOptions& options) const override;
  std::vector<std::vector<TaggedWord>> tag(std::span<const std::string> texts) const override;
  std::vector<double> rank(const std::string& query, std::span<const std::string> documents) const override;
  std::vector<double> choose(const TextPair& text, std::span<const std::string> choices) const override;

 private:
  Encoding encode(const TextPair& text) const {
    const std::string_view second = text.second;
    return model_->tokenizer->encode_template(text.first, second.empty() ? nullptr : &second);
  }
  Encoding cut(const TextPair& text) const {
    Encoding out = encode(text);
    truncate(out, config().context);
    return out;
  }
  std::vector<double> scores(Task task, const std::vector<Encoding>& rows) const;
  std::vector<TaggedWord> tag(const std::string& text) const;
  void require(bool can, const char* what) const {
    if (can) return;
    fail(ErrorKind::unsupported, "'{}' was {} and cannot {}; it can give embeddings{}; fine-tune it, or name a model that was",
         name(), config().task.empty() ? "not fine-tuned for a task" : "trained for " + config().task, what,
         can_classify() ? " and classify"
         : can_answer() ? " and answer questions"
         : can_tag()    ? " and tag words"
         : can_choose() ? " and choose"
                        : "");
  }

  ModelPtr model_;
  EncoderRunner runner_;
  Task task_ = Task::hidden;  // hidden: no head
};

// The first logit of each row.
std::vector<double> Encoder::scores(Task task, const std::vector<Encoding>& rows) const {
  std::vector<double> out(rows.size());
  runner_.run(task, rows,
              [&](std::size_t i, const Session& session, std::int64_t row) { out[i] = row_of(session, "logits", row)[0]; });
  return out;
}

std::vector<std::vector<float>> Encoder::embed(std::span<const std::string> texts) const {
  std::vector<Encoding> rows;
  for (const std::string& text : texts) rows.push_back(cut({text, ""}));
  std::vector<std::vector<float>> out(rows.size());
  runner_.run(Task::embed, rows, [&](std::size_t i, const Session& session, std::int64_t row) {
    const auto values = row_of(session, "embedding", row);
    out[i].assign(values.begin(), values.end());
  });
  return out;
}

std::vector<std::vector<Label>> Encoder::classify(std::span<const TextPair> texts) const {
  require(can_classify(), "classify");
  std::vector<Encoding> rows;
  for (const TextPair& text : texts) rows.push_back(cut(text));
  std::vector<std::vector<Label>> out(rows.size());
  runner_.run(task_, rows, [&](std::size_t i, const Session& session, std::int64_t row) {
    const auto logits = row_of(session, "logits", row);
    std::vector<double> values(logits.begin(), logits.end());
    if (task_ == Task::classify) softmax(values);
    for (std::size_t k = 0; k < values.size(); ++k) {
      const bool named = task_ == Task::classify || values.size() > 1;
      out[i].push_back({named ? config().label_name(static_cast<std::int64_t>(k)) : "score", values[k]});
    }
    if (task_ == Task::classify)
      std::stable_sort(out[i].begin(), out[i].end(), [](const Label& a, const Label& b) { return a.score > b.score; });
  });
  return out;
}

std::vector<SpanAnswer> Encoder::answer(const std::string& question, const std::string& passage,
                                        const AskOptions& options) const {
  require(can_answer(), "answer questions");
  if (passage.find_first_not_of(" \t\r\n\f\v") == std::string::npos) return {SpanAnswer{}};
  const std::vector<Window> parts = windows(encode({question, passage}), config().context, options.stride);
  std::vector<Encoding> rows;
  for (const Window& part : parts) rows.push_back(part.encoding);
  std::vector<SpanScores> found(rows.size());
  runner_.run(Task::span, rows, [&](std::size_t i, const Session& session, std::int64_t row) {
    const auto start = row_of(session, "start_logits", row), end = row_of(session, "end_logits", row);
    found[i] = {{start.begin(), start.end()}, {end.begin(), end.end()}};
  });
  const auto wanted = static_cast<std::size_t>(std::max<std::int64_t>(options.best, 1));
  const SpanSearch search = search_spans(passage, parts, found, wanted, options.max_answer_tokens);
  const double gap = search.best.empty() ? std::numeric_limits<double>::max() : search.no_answer - search.best[0].score;
  std::vector<SpanAnswer> out;
  if (search.best.empty() || (options.allow_no_answer && gap > options.no_answer_threshold))
    out.push_back({"", 0, 0, search.no_answer, gap});
  for (const FoundSpan& span : search.best) {
    if (out.size() >= wanted) break;
    out.push_back(
        {passage.substr(span.begin, span.end - span.begin), span.begin, span.end, span.score, search.no_answer - span.score});
  }
  return out;
}

std::vector<TaggedWord> Encoder::tag(const std::string& text) const {
  const std::vector<Encoding::Range> words = split_words(text);
  const Encoding whole = encode({text, ""});
  const std::vector<Block> texts = blocks(whole);
  if (words.empty() || texts.empty()) return {};
  // Each word is read where its window shows it with the most context.
  const std::vector<Window> parts = windows(whole, config().context, config().context / 4);
  std::vector<Encoding> rows;
  for (const Window& part : parts) rows.push_back(part.encoding);
  std::vector<std::vector<float>> logits(rows.size());
  runner_.run(Task::tag, rows, [&](std::size_t i, const Session& session, std::int64_t row) {
    const auto values = row_of(session, "logits", row);
    logits[i].assign(values.begin(), values.end());
  });
  const auto labels = static_cast<std::size_t>(config().labels);
  const std::vector<std::int64_t> firsts = first_tokens(whole, texts.back(), words);
  std::vector<TaggedWord> out;
  for (std::size_t w = 0; w < words.size(); ++w) {
    if (firsts[w] < 0) continue;  // of characters that the tokenizer drops
    const std::size_t token = static_cast<std::size_t>(firsts[w]) - texts.back().begin, at = best_window(parts, token);
    const std::size_t place = parts[at].text.begin + token - parts[at].first;
    std::vector<double> row(logits[at].begin() + static_cast<std::ptrdiff_t>(place * labels),
                            logits[at].begin() + static_cast<std::ptrdiff_t>((place + 1) * labels));
    softmax(row);
    const auto best = static_cast<std::size_t>(std::max_element(row.begin(), row.end()) - row.begin());
    out.push_back({words[w].begin, words[w].end, {config().label_name(static_cast<std::int64_t>(best)), row[best]}});
  }
  return out;
}

std::vector<std::vector<TaggedWord>> Encoder::tag(std::span<const std::string> texts) const {
  require(can_tag(), "tag words");
  std::vector<std::vector<TaggedWord>> out;
  for (const std::string& text : texts) out.push_back(tag(text));
  return out;
}

std::vector<double> Encoder::rank(const std::string& query, std::span<const std::string> documents) const {
  if (documents.empty()) return {};
  if (task_ == Task::rank) {
    std::vector<Encoding> rows;
    for (const std::string& document : documents) rows.push_back(cut({query, document}));
    return scores(Task::rank, rows);
  }
  std::vector<std::string> texts{query};
  texts.insert(texts.end(), documents.begin(), documents.end());
  const std::vector<std::vector<float>> vectors = embed(texts);
  std::vector<double> out;
  for (std::size_t i = 1; i < vectors.size(); ++i) {
    double cosine = 0;
    for (std::size_t k = 0; k < vectors[0].size(); ++k) cosine += double{vectors[0][k]} * vectors[i][k];
    out.push_back(cosine);
  }
  return out;
}

std::vector<double> Encoder::choose(const TextPair& text, std::span<const std::string> choices) const {
  require(can_choose(), "choose");
  if (choices.empty()) return {};
  std::vector<Encoding> rows;
  for (const std::string& choice : choices) rows.push_back(cut({text.first, choice_text(text.second, choice)}));
  std::vector<double> out = scores(Task::choice, rows);
  softmax(out);
  return out;
}

}  // namespace

std::vector<double> EncoderModel::choose(const TextPair&, std::span<const std::string>) const {
  fail(ErrorKind::unsupported, "'{}' cannot choose between answers", name());
}

EncoderModelPtr make_encoder_model(ModelPtr model, const CompileOptions& compile) {
  return std::make_shared<const Encoder>(std::move(model), compile);
}

EncoderModelPtr open_encoder_model(const std::filesystem::path& folder, const CompileOptions& compile) {
  return make_encoder_model(load_model(folder), compile);
}

}  // namespace rhetor
