// The examples of a fine-tuning run: read, labelled, encoded, and made into batches and validation scores.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/encoding.h"
#include "data/examples.h"
#include "train/step.h"
#include "train/trainer.h"

namespace rhetor {

// One text or pair, ready for the model.
struct TaskRow {
  std::vector<TokenId> ids;
  std::vector<std::int32_t> segments;
};
// What the loss counts as one: some rows and their targets, see BuildSpec::Task.
struct TaskFeature {
  std::vector<std::uint32_t> rows;   // in TaskPart::rows; ranking: all documents of a query, of which batches take `group`
  std::vector<std::int32_t> labels;  // classification, choice: 1; span: start, end; tagging: one a token
  std::vector<float> values;         // regression, cosine: 1; ranking: one a row
  std::size_t example = 0;           // in TaskPart::examples, for scoring
  std::size_t window = 0;            // span, tagging: which piece of it
  std::size_t length = 0;            // of the longest row
};
struct TaskPart {
  std::vector<Example> examples;
  std::vector<TaskRow> rows;
  std::vector<TaskFeature> features;
  std::vector<std::vector<Window>> windows;  // span, tagging, kept for scoring: of each example
};

class TaskData {
 public:
  // Reads the files and decides the labels. `known`: the tokenizer of the run or of the model it begins with; null: one is
  // trained on the texts. `from`: the configuration training begins with, or null; its labels stay if the task is the same. Fails
  // naming the file or key.
  TaskData(const Recipe& recipe, TokenizerPtr known, const ModelConfig* from,
           const std::function<void(const std::string&)>& note);
  const TokenizerPtr& tokenizer() const { return tokenizer_; }
  void describe(ModelConfig& config) const;  // sets task, labels and label_names
  // Encodes everything for sequences of at most `seq` tokens. Required before what follows.
  void encode(std::int64_t seq, const std::function<void(const std::string&)>& note);
  std::uint64_t hash() const { return hash_; }  // of tokenizer, texts and labels
  std::int64_t group() const { return group_; }
  LossOptions losses() const;
  std::int64_t steps_per_epoch() const;

  // Batch `index`: recipe.batch * recipe.accumulation examples, padded to the longest of them. A pure function of (data, recipe,
  // index): every epoch is a permutation, within which examples of similar length meet.
  NamedTensors batch(std::uint64_t index) const;
  // The validation part in order of length, recipe.batch examples each, the last one filled up with what does not count.
  std::size_t validation_batches() const;
  NamedTensors validation_batch(std::size_t index) const;
  std::size_t validation_count(std::size_t index) const;  // examples that count in a batch

  // The metrics of a kind, the deciding one first; "loss" comes from the trainer.
  const std::vector<std::string>& metrics() const { return metrics_; }
  static bool higher_is_better(const std::string& metric) { return metric != "loss" && metric != "mse"; }
  // Outputs of validation batches to metrics. add() in any order, each batch once.
  class Scorer {
   public:
    explicit Scorer(const TaskData& data);
    void add(std::size_t batch, const Stepper& stepper);
    std::vector<std::pair<std::string, double>> finish() const;

   private:
    const TaskData& data_;
    std::vector<std::vector<float>> first_, second_;  // outputs by feature
  };

 private:
  friend class Scorer;
  TaskRow row(const std::string& first, const std::string& second) const;
  void decide_labels(const ModelConfig* from, const std::function<void(const std::string&)>& note);
  void encode_part(TaskPart& part, bool training);
  void encode_example(TaskPart& part, std::size_t index, bool training);
  void add_feature(TaskPart& part, TaskFeature feature, std::vector<TaskRow> rows);
  std::int32_t label_of(const Example& example) const;
  NamedTensors assemble(const TaskPart& part, const std::vector<std::size_t>& features, std::int64_t examples,
                        std::uint64_t draw) const;
  std::vector<std::uint32_t> sampled(const TaskFeature& feature, std::uint64_t draw) const;

  Recipe recipe_;
  BuildSpec::Task kind_;
  TokenizerPtr tokenizer_;
  TaskPart train_, validation_;
  std::vector<std::size_t> order_;  // of validation features, by length
  std::vector<std::string> label_names_, metrics_;
  std::int64_t labels_ = 0, group_ = 1, seq_ = 0;
  std::vector<double> class_weights_;
  std::size_t unplaced_ = 0;  // span: answers that do not stand in their passage
  std::uint64_t hash_ = 0;
};

}  // namespace rhetor
