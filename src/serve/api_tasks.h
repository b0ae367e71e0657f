// The bodies of requests that one pass through an encoder answers: embeddings, ranking, classification, tagging, span questions.
// JSON in, JSON out, nothing else. Thread-safe (pure functions). The parsers fail as parse_completion() does.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "generate/encoder_model.h"

namespace rhetor {

enum class EncoderTask { embed, rank, classify, tag, answer };

struct EncoderRequest {
  EncoderTask kind = EncoderTask::embed;
  std::string model;     // "" = not named
  double timeout_s = 0;  // 0 = as long as the service allows
  // embed, tag: the texts (`second` unused); classify: texts or pairs; rank: `first` is the query each time, `second` the
  // document; answer: one pair, question and passage.
  std::vector<TextPair> inputs;
  bool single = false;    // "input" was one text, not a list
  bool truncate = false;  // a text longer than the context is cut instead of refused
  // embed
  bool base64 = false;
  std::int64_t dimensions = 0;  // 0 = all
  // rank
  std::int64_t top_n = 0;  // 0 = all
  bool return_documents = false;
  // answer
  AskOptions ask;
};

constexpr std::size_t kMaxInputs = 2048;  // texts in one request, OpenAI's limit

EncoderRequest parse_embeddings(std::string_view body);
EncoderRequest parse_rank(std::string_view body);
EncoderRequest parse_classify(std::string_view body);
EncoderRequest parse_tag(std::string_view body);
EncoderRequest parse_qa(std::string_view body);
EncoderRequest parse_task(EncoderTask kind, std::string_view body);

// The results in the order of the inputs; those of another kind are empty.
struct EncoderResult {
  std::vector<std::vector<float>> vectors;
  std::vector<double> scores;
  std::vector<std::vector<Label>> labels;
  std::vector<std::vector<TaggedWord>> words;
  std::vector<SpanAnswer> answers;
  std::int64_t tokens = 0;  // read by the model
};
std::string task_json(const EncoderRequest& request, const EncoderResult& result, const std::string& model);

}  // namespace rhetor
