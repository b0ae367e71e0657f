// Reading, splitting and labelling the examples of a run; task_features.cc encodes them, task_batches.cc makes batches.
#include "train/task_data.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/rng.h"
#include "graph/op.h"
#include "text/make_tokenizer.h"

namespace rhetor {
namespace {

using Task = BuildSpec::Task;

// "2" before "10", numbers before words.
bool label_less(const std::string& a, const std::string& b) {
  char *end_a = nullptr, *end_b = nullptr;
  const double x = std::strtod(a.c_str(), &end_a), y = std::strtod(b.c_str(), &end_b);
  const bool number_a = !a.empty() && *end_a == '\0', number_b = !b.empty() && *end_b == '\0';
  if (number_a != number_b) return number_a;
  if (number_a && x != y) return x < y;
  return a < b;
}

// What must not be torn apart between training and validation: the documents of a query, the questions about a passage.
std::string unit(const Example& e, Task kind) {
  std::string text = kind == Task::span ? e.second : e.first;
  for (const std::string& word : e.words) text += word + " ";
  return text;
}

std::vector<std::string> metrics_of(Task kind, const Recipe& recipe) {
  std::vector<std::string> names;
  switch (kind) {
    case Task::classify:
      names = {"accuracy", "f1", "macro_f1", "matthews"};
      break;
    case Task::regress:
      names = {"pearson", "spearman", "mse"};
      break;
    case Task::span:
      names = {"f1", "exact"};
      break;
    case Task::tag:
      names = {"f1", "accuracy"};
      break;
    case Task::choice:
      names = {"accuracy"};
      break;
    case Task::rank:
      names = {"mrr", "map", "ndcg"};
      break;
    default:
      names = recipe.embedding == "cosine" ? std::vector<std::string>{"spearman", "pearson"}
                                           : std::vector<std::string>{"accuracy", "mrr"};
  }
  if (recipe.metric.empty()) return names;
  const auto found = std::find(names.begin(), names.end(), recipe.metric);
  if (found == names.end() && recipe.metric != "loss") {
    std::string list = "loss";
    for (const std::string& name : names) list += ", " + name;
    fail("task.metric is \"{}\"; a {} task has {}", recipe.metric, recipe.task, list);
  }
  if (found != names.end()) std::rotate(names.begin(), found, found + 1);
  return names;
}

std::vector<std::filesystem::path> paths(const std::vector<std::string>& names) { return {names.begin(), names.end()}; }

}  // namespace

TaskData::TaskData(const Recipe& recipe, TokenizerPtr known, const ModelConfig* from,
                   const std::function<void(const std::string&)>& note)
    : recipe_(recipe),
      kind_(find_task_kind(recipe.task)->task),
      tokenizer_(std::move(known)),
      metrics_(metrics_of(kind_, recipe)) {
  const ExampleFields fields{recipe.text, recipe.pair, recipe.label, recipe.choices};
  std::vector<Example> all = read_examples(paths(recipe.files), recipe.task, fields);
  if (!recipe.validation_files.empty()) {
    train_.examples = std::move(all);
    validation_.examples = read_examples(paths(recipe.validation_files), recipe.task, fields);
  } else {
    for (Example& e : all) {
      const std::uint64_t draw = hash64(unit(e, kind_), recipe.seed);
      const bool held_out = static_cast<double>(draw >> 11) * 0x1p-53 < recipe.validation;
      (held_out ? validation_ : train_).examples.push_back(std::move(e));
    }
  }
  if (train_.examples.empty()) fail("no example is left to train on; data.validation is {}", recipe.validation);
  note(fmt::format("examples: {} to train on, {} to validate", train_.examples.size(), validation_.examples.size()));
  if (!tokenizer_ && !recipe.tokenizer.empty()) tokenizer_ = load_tokenizer(recipe.tokenizer);
  if (!tokenizer_) {
    std::size_t next = 0;
    const auto document = [&](std::string& text) {
      if (next == train_.examples.size()) return false;
      const Example& e = train_.examples[next++];
      text = e.first + "\n" + e.second;
      for (const std::string& choice : e.choices) text += "\n" + choice;
      for (const std::string& word : e.words) text += " " + word;
      return true;
    };
    TokenizerTrainOptions options;
    options.kind = recipe.tokenizer_kind;
    options.vocab_size = recipe.vocab;
    tokenizer_ = train_tokenizer(document, options);
    note(fmt::format("tokenizer: {} tokens trained on the examples", tokenizer_->vocab_size()));
  }
  decide_labels(from, note);
}

void TaskData::decide_labels(const ModelConfig* from, const std::function<void(const std::string&)>& note) {
  if (kind_ == Task::choice || kind_ == Task::rank || kind_ == Task::regress) labels_ = 1;
  if (kind_ == Task::choice) {
    for (const TaskPart* part : {&train_, &validation_})
      for (const Example& e : part->examples) {
        group_ = std::max(group_, static_cast<std::int64_t>(e.choices.size()));
        if (e.right < 0)
          fail("a multiple-choice example has no label (\"{}\"); training needs the right choice of each", e.first.substr(0, 60));
      }
  }
  if (kind_ == Task::rank) group_ = recipe_.group;
  if (kind_ == Task::embed) group_ = 2;
  if (kind_ != Task::classify && kind_ != Task::tag) return;

  std::map<std::string, double> counts;
  for (const Example& e : train_.examples) {
    if (kind_ == Task::classify) ++counts[e.label];
    for (const std::string& tag : e.tags) ++counts[tag];
  }
  if (counts.contains("")) fail("an example of '{}' has an empty label; every example needs one", recipe_.files[0]);
  if (!recipe_.labels.empty()) {
    label_names_ = recipe_.labels;
    if (std::set<std::string>(label_names_.begin(), label_names_.end()).size() != label_names_.size())
      fail("task.labels names a label twice");
  } else if (from && from->task == recipe_.task && !from->label_names.empty()) {
    label_names_ = from->label_names;
  } else {
    if (counts.size() > 100'000) fail("the examples have {} labels; is task.label the right field?", counts.size());
    for (const auto& [name, count] : counts) label_names_.push_back(name);
    std::sort(label_names_.begin(), label_names_.end(), label_less);
  }
  labels_ = static_cast<std::int64_t>(label_names_.size());
  if (labels_ < 2) fail("all examples have the label '{}'; a {} needs at least two", label_names_[0], recipe_.task);

  if (recipe_.class_weights.size() == 1 && recipe_.class_weights[0] == "balanced") {
    double total = 0;
    for (const auto& [name, count] : counts) total += count;
    for (const std::string& name : label_names_) {
      const double count = counts.contains(name) ? counts[name] : 0;
      class_weights_.push_back(count > 0 ? total / (static_cast<double>(labels_) * count) : 1.0);
    }
  } else if (!recipe_.class_weights.empty()) {
    for (const std::string& text : recipe_.class_weights) class_weights_.push_back(label_number(text, "task.class_weights"));
    if (static_cast<std::int64_t>(class_weights_.size()) != labels_)
      fail("task.class_weights has {} numbers for {} labels", class_weights_.size(), labels_);
    for (const double weight : class_weights_)
      if (weight < 0) fail("task.class_weights holds {}; weights are 0 or more", weight);
  }
  std::string list;
  for (std::size_t i = 0; i < label_names_.size() && i < 12; ++i) list += (i ? ", " : "") + label_names_[i];
  note(fmt::format("labels: {}{}", list, label_names_.size() > 12 ? fmt::format(", ... ({} in all)", label_names_.size()) : ""));
  if (kind_ != Task::classify || validation_.examples.empty()) return;
  const auto common =
      std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  const auto same = std::count_if(validation_.examples.begin(), validation_.examples.end(),
                                  [&](const Example& e) { return e.label == common->first; });
  note(fmt::format("always saying '{}' is right for {:.1f} % of the validation examples", common->first,
                   100.0 * static_cast<double>(same) / static_cast<double>(validation_.examples.size())));
}

void TaskData::describe(ModelConfig& config) const {
  config.task = recipe_.task;
  config.labels = labels_;
  config.label_names = label_names_;
}

LossOptions TaskData::losses() const {
  LossOptions out;
  out.label_smoothing = recipe_.label_smoothing;
  out.class_weights = class_weights_;
  out.ranking = recipe_.ranking == "pointwise"  ? LossOptions::Ranking::pointwise
                : recipe_.ranking == "pairwise" ? LossOptions::Ranking::pairwise
                                                : LossOptions::Ranking::listwise;
  out.embedding = recipe_.embedding == "cosine" ? LossOptions::Embedding::cosine : LossOptions::Embedding::contrastive;
  out.temperature = recipe_.temperature;
  return out;
}

std::int32_t TaskData::label_of(const Example& e) const {
  const auto found = std::find(label_names_.begin(), label_names_.end(), e.label);
  if (found != label_names_.end()) return static_cast<std::int32_t>(found - label_names_.begin());
  const std::vector<std::string_view> names(label_names_.begin(), label_names_.end());
  const std::string near = nearest(e.label, names);
  fail("the label '{}' of \"{}\" is none of the {} known ones{}; list them all in task.labels", e.label, e.first.substr(0, 60),
       labels_, near.empty() ? "" : " (did you mean '" + near + "'?)");
}

}  // namespace rhetor
