// Examples to rows of tokens and targets.
#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "base/thread_pool.h"
#include "train/task_data.h"

namespace rhetor {
namespace {

using Task = BuildSpec::Task;

TaskRow row_of(Encoding e) { return {std::move(e.ids), std::move(e.segments)}; }

// Tokens [start, end] of a window that hold bytes [begin, end) of the passage; {0, 0}, the first token, if they are not all in
// it.
std::vector<std::int32_t> span_targets(const Window& w, std::int64_t begin, std::int64_t end) {
  std::int64_t first = -1, last = -1;
  for (std::size_t t = w.text.begin; t < w.text.end; ++t) {
    const auto& range = w.encoding.ranges[t];
    if (std::int64_t{range.end} > begin && std::int64_t{range.begin} < end) {
      if (first < 0) first = static_cast<std::int64_t>(t);
      last = static_cast<std::int64_t>(t);
    }
  }
  const auto at = [&](std::int64_t t) { return w.encoding.ranges[static_cast<std::size_t>(t)]; };
  if (first < 0 || std::int64_t{at(first).begin} > begin || std::int64_t{at(last).end} < end) return {0, 0};
  return {static_cast<std::int32_t>(first), static_cast<std::int32_t>(last)};
}

// "the cat" and the ranges of its words.
std::string joined(const std::vector<std::string>& words, std::vector<Encoding::Range>& ranges) {
  std::string text;
  for (const std::string& word : words) {
    if (!text.empty()) text += ' ';
    const auto begin = static_cast<std::uint32_t>(text.size());
    text += word;
    ranges.push_back({begin, static_cast<std::uint32_t>(text.size())});
  }
  return text;
}

}  // namespace

TaskRow TaskData::row(const std::string& first, const std::string& second) const {
  const std::string_view pair = second;
  Encoding e = tokenizer_->encode_template(first, second.empty() ? nullptr : &pair);
  truncate(e, seq_);
  return row_of(std::move(e));
}

void TaskData::add_feature(TaskPart& part, TaskFeature feature, std::vector<TaskRow> rows) {
  for (TaskRow& r : rows) {
    // A text without a token (empty, in a tokenizer without marks) still is a row.
    if (r.ids.empty()) r.ids = {0}, r.segments = {0};
    feature.length = std::max(feature.length, r.ids.size());
    feature.rows.push_back(static_cast<std::uint32_t>(part.rows.size()));
    part.rows.push_back(std::move(r));
  }
  part.features.push_back(std::move(feature));
}

void TaskData::encode_example(TaskPart& part, std::size_t index, bool training) {
  const Example& e = part.examples[index];
  const std::string_view where = "task.label";
  TaskFeature f{.example = index};
  switch (kind_) {
    case Task::classify:
      f.labels = {label_of(e)};
      return add_feature(part, std::move(f), {row(e.first, e.second)});
    case Task::regress:
      f.values = {static_cast<float>(label_number(e.label, where))};
      return add_feature(part, std::move(f), {row(e.first, e.second)});
    case Task::embed:
      if (recipe_.embedding == "cosine")
        f.values = {static_cast<float>(label_number(e.label, where) / recipe_.scale)};
      else
        f.labels = {0};
      return add_feature(part, std::move(f), {row(e.first, ""), row(e.second, "")});
    case Task::choice: {
      f.labels = {static_cast<std::int32_t>(e.right)};
      std::vector<TaskRow> rows;
      for (const std::string& choice : e.choices) rows.push_back(row(e.first, choice_text(e.second, choice)));
      return add_feature(part, std::move(f), std::move(rows));
    }
    case Task::span: {
      const std::string_view passage = e.second;
      std::vector<Window> pieces = windows(tokenizer_->encode_template(e.first, &passage), seq_, recipe_.stride);
      if (training && !e.answers.empty() && e.answers[0].begin < 0) {
        ++unplaced_;
        return;
      }
      for (std::size_t w = 0; w < pieces.size(); ++w) {
        TaskFeature one{.labels = {0, 0}, .example = index, .window = w};
        if (!e.answers.empty() && e.answers[0].begin >= 0) {
          const std::int64_t begin = e.answers[0].begin;
          one.labels = span_targets(pieces[w], begin, begin + static_cast<std::int64_t>(e.answers[0].text.size()));
        }
        add_feature(part, std::move(one), {TaskRow{pieces[w].encoding.ids, pieces[w].encoding.segments}});
      }
      if (!training) part.windows[index] = std::move(pieces);
      return;
    }
    default:
      break;
  }
  // Tagging: the first token of a word carries its label, in the window that shows it with the most context.
  std::vector<Encoding::Range> ranges;
  const std::string text = joined(e.words, ranges);
  const Encoding whole = tokenizer_->encode_template(text);
  std::vector<Window> pieces = windows(whole, seq_, seq_ / 4);
  for (std::size_t w = 0; w < pieces.size(); ++w)
    add_feature(part, {.labels = std::vector<std::int32_t>(pieces[w].encoding.ids.size(), -100), .example = index, .window = w},
                {TaskRow{pieces[w].encoding.ids, pieces[w].encoding.segments}});
  const std::vector<Block> texts = blocks(whole);
  if (texts.empty()) return;
  const std::vector<std::int64_t> firsts = first_tokens(whole, texts.back(), ranges);
  const std::size_t base = part.features.size() - pieces.size();
  for (std::size_t word = 0; word < firsts.size(); ++word) {
    if (firsts[word] < 0) continue;
    const std::size_t token = static_cast<std::size_t>(firsts[word]) - texts.back().begin, w = best_window(pieces, token);
    Example named;
    named.label = e.tags[word], named.first = e.words[word];
    part.features[base + w].labels[pieces[w].text.begin + token - pieces[w].first] = label_of(named);
  }
  if (!training) part.windows[index] = std::move(pieces);
}

void TaskData::encode_part(TaskPart& part, bool training) {
  part.windows.resize(training ? 0 : part.examples.size());
  if (kind_ != Task::rank) {
    for (std::size_t i = 0; i < part.examples.size(); ++i) encode_example(part, i, training);
    return;
  }
  // One feature a query for training; for validation its documents in groups, scored one by one all the same.
  std::map<std::string, std::size_t> feature_of;
  std::vector<std::vector<std::size_t>> queries;
  for (std::size_t i = 0; i < part.examples.size(); ++i) {
    const auto [at, fresh] = feature_of.emplace(part.examples[i].first, queries.size());
    if (fresh) queries.emplace_back();
    queries[at->second].push_back(i);
  }
  for (const std::vector<std::size_t>& documents : queries) {
    const std::size_t most = training ? documents.size() : static_cast<std::size_t>(group_);
    for (std::size_t begin = 0; begin < documents.size(); begin += most) {
      TaskFeature f{.example = documents[0], .window = begin};
      std::vector<TaskRow> rows;
      for (std::size_t i = begin; i < std::min(begin + most, documents.size()); ++i) {
        const Example& e = part.examples[documents[i]];
        f.values.push_back(static_cast<float>(label_number(e.label, "task.label")));
        rows.push_back(row(e.first, e.second));
      }
      const bool relevant = std::any_of(f.values.begin(), f.values.end(), [](float v) { return v > 0; });
      if (!training || relevant) add_feature(part, std::move(f), std::move(rows));
    }
  }
}

void TaskData::encode(std::int64_t seq, const std::function<void(const std::string&)>& note) {
  seq_ = seq;
  encode_part(train_, true);
  encode_part(validation_, false);
  if (unplaced_ > 0) note(fmt::format("{} answers do not stand in their passage and were left out", unplaced_));
  if (train_.features.empty()) fail("no example of '{}' can be trained on", recipe_.files[0]);
  order_.resize(validation_.features.size());
  for (std::size_t i = 0; i < order_.size(); ++i) order_[i] = i;
  std::stable_sort(order_.begin(), order_.end(),
                   [&](std::size_t a, std::size_t b) { return validation_.features[a].length < validation_.features[b].length; });
  hash_ = hash64(tokenizer_->to_json());
  for (const std::string& name : label_names_) hash_ = hash64(name, hash_);
  double longest = 0, tokens = 0;
  for (TaskPart* part : {&train_, &validation_}) {
    for (const TaskRow& r : part->rows) hash_ = hash64(std::as_bytes(std::span(r.ids)), hash_);
    for (const TaskFeature& f : part->features) {
      hash_ = hash64(std::as_bytes(std::span(f.labels)), hash_);
      hash_ = hash64(std::as_bytes(std::span(f.values)), hash_);
      longest = std::max(longest, static_cast<double>(f.length));
    }
    for (const TaskRow& r : part->rows) tokens += static_cast<double>(r.ids.size());
    if (part == &train_) {
      part->examples.clear();  // the rows hold all that training needs
      part->examples.shrink_to_fit();
    }
  }
  const double rows = static_cast<double>(train_.rows.size() + validation_.rows.size());
  note(fmt::format("encoded: {} rows, {:.1f} tokens each, the longest {:.0f} of at most {}",
                   train_.rows.size() + validation_.rows.size(), tokens / std::max(1.0, rows), longest, seq_));
}

}  // namespace rhetor
