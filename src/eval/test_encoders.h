// An encoder that says what a test tells it to, and files to read.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <functional>

#include "base/file.h"
#include "base/test_util.h"
#include "generate/encoder_model.h"

namespace rhetor::testing {

class FakeEncoder : public EncoderModel {
 public:
  FakeEncoder() { config_.family = "bert"; }
  const ModelConfig& config() const override { return config_; }
  const std::string& name() const override { return name_; }
  const TokenizerPtr& tokenizer() const override { return tokenizer_; }
  std::int64_t tokens(const TextPair&) const override { return 1; }
  bool can_embed() const override { return static_cast<bool>(on_embed); }
  bool can_classify() const override { return static_cast<bool>(on_classify); }
  bool can_answer() const override { return static_cast<bool>(on_answer); }
  bool can_tag() const override { return static_cast<bool>(on_tag); }
  bool can_rank() const override { return true; }
  std::vector<std::vector<float>> embed(std::span<const std::string> texts) const override {
    std::vector<std::vector<float>> out;
    for (const auto& text : texts) out.push_back(on_embed(text));
    return out;
  }
  std::vector<std::vector<Label>> classify(std::span<const TextPair> texts) const override {
    std::vector<std::vector<Label>> out;
    for (const auto& text : texts) out.push_back({on_classify(text)});
    return out;
  }
  std::vector<SpanAnswer> answer(const std::string& question, const std::string&, const AskOptions&) const override {
    return {on_answer(question)};
  }
  std::vector<std::vector<TaggedWord>> tag(std::span<const std::string> texts) const override {
    std::vector<std::vector<TaggedWord>> out;
    for (const auto& text : texts) out.push_back(on_tag(text));
    return out;
  }
  std::vector<double> rank(const std::string&, std::span<const std::string> documents) const override {
    std::vector<double> out;
    for (const auto& document : documents) out.push_back(static_cast<double>(document.size()));
    return out;
  }
  std::vector<double> choose(const TextPair&, std::span<const std::string> choices) const override {
    std::vector<double> out;
    for (const auto& choice : choices) out.push_back(static_cast<double>(choice.size()));
    return out;
  }

  std::function<std::vector<float>(const std::string&)> on_embed;
  std::function<Label(const TextPair&)> on_classify;
  std::function<SpanAnswer(const std::string&)> on_answer;
  std::function<std::vector<TaggedWord>(const std::string&)> on_tag;
  ModelConfig config_;

 private:
  std::string name_ = "fake";
  TokenizerPtr tokenizer_;
};

// A file with this content, gone at the end.
class TempFile {
 public:
  TempFile(const std::string& content, const std::string& ending) {
    static int count = 0;
    path_ = (std::filesystem::temp_directory_path() / fmt::format("rhetor-eval-{}-{}{}", ::getpid(), count++, ending)).string();
    write_file_atomic(path_, content);
  }
  ~TempFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace rhetor::testing
