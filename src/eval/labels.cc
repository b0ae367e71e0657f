#include "eval/labels.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "data/scores.h"

namespace rhetor {
namespace {

using OrderedJson = nlohmann::ordered_json;
constexpr std::size_t kBatch = 64;   // texts given to the model at once; it sorts them into buckets

std::string line(const OrderedJson& json) { return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace); }

// Calls take(first index, labels of those texts) for all examples, batch by batch.
template <class Take>
void classify_all(const EncoderModel& model, std::span<const Example> examples, const EvalProgress& progress, const Take& take) {
  for (std::size_t begin = 0; begin < examples.size(); begin += kBatch) {
    const std::size_t end = std::min(examples.size(), begin + kBatch);
    std::vector<TextPair> texts;
    for (std::size_t i = begin; i < end; ++i) texts.push_back({examples[i].first, examples[i].second});
    take(begin, model.classify(texts));
    if (progress) progress(static_cast<std::int64_t>(end), static_cast<std::int64_t>(examples.size()));
  }
}

std::vector<std::string> model_labels(const ModelConfig& config) {
  std::vector<std::string> out;
  for (std::int64_t i = 0; i < config.labels; ++i) out.push_back(config.label_name(i));
  return out;
}

}  // namespace

EvalReport score_labels(const std::vector<std::string>& predicted, const std::vector<std::string>& truth,
                        std::vector<std::string> labels) {
  check(predicted.size() == truth.size(), "one prediction an example");
  if (truth.empty()) fail("there are no examples to score");
  std::vector<std::string> others;
  for (const auto* list : {&truth, &predicted}) {
    for (const auto& name : *list) {
      if (std::find(labels.begin(), labels.end(), name) == labels.end() &&
          std::find(others.begin(), others.end(), name) == others.end())
        others.push_back(name);
    }
  }
  std::sort(others.begin(), others.end());
  labels.insert(labels.end(), others.begin(), others.end());
  const auto index = [&](const std::string& name) {
    return static_cast<std::int32_t>(std::find(labels.begin(), labels.end(), name) - labels.begin());
  };
  std::vector<std::int32_t> p, t;
  for (std::size_t i = 0; i < truth.size(); ++i) p.push_back(index(predicted[i])), t.push_back(index(truth[i]));
  const ClassScores scores = class_scores(p, t, static_cast<std::int64_t>(labels.size()));
  EvalReport report{.task = "classification", .n = static_cast<std::int64_t>(truth.size())};
  report.add("accuracy", scores.accuracy);
  report.add("macro_f1", scores.macro_f1);
  report.add("micro_f1", scores.accuracy);   // one label a text: precision, recall and accuracy are the same number
  report.add("matthews", scores.matthews);
  if (labels.size() == 2) report.add("f1", scores.f1);
  std::int64_t commonest = 0;
  for (std::size_t k = 0; k < labels.size(); ++k) {
    const auto of = static_cast<std::int32_t>(k);
    const auto is = std::count(t.begin(), t.end(), of), said = std::count(p.begin(), p.end(), of);
    commonest = std::max<std::int64_t>(commonest, is);
    double right = 0;
    for (std::size_t i = 0; i < t.size(); ++i) right += p[i] == of && t[i] == of;
    if (is + said > 0) report.add("f1_" + labels[k], 2 * right / static_cast<double>(is + said));
  }
  report.add("majority", static_cast<double>(commonest) / static_cast<double>(truth.size()));
  return report;
}

EvalReport evaluate_classification(const EncoderModel& model, std::span<const Example> examples, const EvalProgress& progress) {
  std::vector<std::string> predicted, truth, lines;
  classify_all(model, examples, progress, [&](std::size_t begin, const std::vector<std::vector<Label>>& all) {
    for (std::size_t i = 0; i < all.size(); ++i) {
      predicted.push_back(all[i].at(0).name);
      truth.push_back(examples[begin + i].label);
      lines.push_back(line(
          {{"index", begin + i}, {"label", truth.back()}, {"predicted", predicted.back()}, {"probability", all[i][0].score}}));
    }
  });
  const auto known = model_labels(model.config());
  const bool shared = std::any_of(truth.begin(), truth.end(),
                                  [&](const auto& name) { return std::find(known.begin(), known.end(), name) != known.end(); });
  if (!shared && !known.empty())
    fail(
        "the data's labels (such as '{}') are none of the model's (such as '{}'); name the right column with --label, or train "
        "with these labels",
        truth[0].substr(0, 40), known[0]);
  EvalReport report = score_labels(predicted, truth, known);
  report.predictions = std::move(lines);
  return report;
}

EvalReport score_numbers(const std::vector<double>& predicted, const std::vector<double>& truth) {
  if (truth.size() < 2) fail("a correlation needs at least 2 examples, found {}", truth.size());
  EvalReport report{.task = "regression", .n = static_cast<std::int64_t>(truth.size())};
  const auto mean = [](const std::vector<double>& x) {
    return std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
  };
  report.add("pearson", pearson(predicted, truth));
  report.add("spearman", spearman(predicted, truth));
  report.add("mse", mean_square_error(predicted, truth));
  report.add("mean_predicted", mean(predicted));
  report.add("mean", mean(truth));
  return report;
}

EvalReport evaluate_regression(const EncoderModel& model, std::span<const Example> examples, const EvalProgress& progress) {
  std::vector<double> predicted, truth;
  std::vector<std::string> lines;
  const auto number = [&](std::size_t i) { return label_number(examples[i].label, fmt::format("example {}", i + 1)); };
  if (!examples.empty()) number(0);   // before the model runs: a wrong column is noticed at once
  if (model.can_classify()) {
    classify_all(model, examples, progress, [&](std::size_t, const std::vector<std::vector<Label>>& all) {
      for (const auto& labels : all) predicted.push_back(labels.at(0).score);
    });
  } else {
    // Similarity of two texts without a head for it: the cosine of their embeddings.
    for (std::size_t i = 0; i < examples.size(); ++i) {
      predicted.push_back(model.rank(examples[i].first, {&examples[i].second, 1}).at(0));
      if (progress) progress(static_cast<std::int64_t>(i) + 1, static_cast<std::int64_t>(examples.size()));
    }
  }
  for (std::size_t i = 0; i < examples.size(); ++i) {
    truth.push_back(number(i));
    lines.push_back(line({{"index", i}, {"label", truth.back()}, {"predicted", predicted[i]}}));
  }
  EvalReport report = score_numbers(predicted, truth);
  report.predictions = std::move(lines);
  return report;
}

EvalReport evaluate_tagging(const EncoderModel& model, std::span<const Example> examples, const EvalProgress& progress) {
  if (examples.empty()) fail("there are no sentences to score");
  std::vector<std::vector<std::string>> predicted, truth;
  EvalReport report{.task = "tagging", .n = static_cast<std::int64_t>(examples.size())};
  double words = 0;
  for (const Example& e : examples) {
    std::string text;
    std::vector<std::int64_t> begins;
    for (const auto& word : e.words) {
      if (!text.empty()) text += ' ';
      begins.push_back(static_cast<std::int64_t>(text.size()));
      text += word;
    }
    const auto tagged = model.tag({&text, 1}).at(0);
    // The model's words may be parts of the data's ("U.S." + "."): the first part that begins in a word gives its tag.
    std::vector<std::string> tags(e.words.size(), "O");
    std::size_t at = 0;
    for (std::size_t w = 0; w < begins.size(); ++w) {
      while (at < tagged.size() && tagged[at].begin < begins[w]) ++at;
      const std::int64_t end = begins[w] + static_cast<std::int64_t>(e.words[w].size());
      if (at < tagged.size() && tagged[at].begin < end) tags[w] = tagged[at].label.name;
    }
    words += static_cast<double>(e.words.size());
    report.predictions.push_back(line({{"words", e.words}, {"tags", e.tags}, {"predicted", tags}}));
    predicted.push_back(std::move(tags));
    truth.push_back(e.tags);
    if (progress) progress(static_cast<std::int64_t>(truth.size()), report.n);
  }
  const TagScores scores = tag_scores(predicted, truth);
  report.add("precision", scores.precision);
  report.add("recall", scores.recall);
  report.add("f1", scores.f1);
  report.add("accuracy", scores.accuracy);
  report.add("words", words);
  return report;
}

}  // namespace rhetor
