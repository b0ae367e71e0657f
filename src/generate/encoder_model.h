// Answers that take one pass through a model and generate no text: embeddings, labels, scores, spans. The engine behind
// /v1/embeddings, /v1/classify, /v1/qa, /v1/rank and behind `rhetor embed|rank|ask|eval`.
//
// Thread-safety: an EncoderModel is immutable; every member may be called concurrently. Texts are sorted into length buckets and
// batched; a result does not depend on its neighbours beyond the rounding of a sum: another batch size may take another kernel.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "models/model.h"

namespace rhetor {

struct TextPair {
  std::string first, second;         // second "" = one text
};
struct Label {
  std::string name;
  double score = 0;                  // probability; for regression the value
};
struct SpanAnswer {
  std::string text;                  // "" = the passage does not answer
  std::int64_t begin = 0, end = 0;   // bytes of the passage
  double score = 0;                  // start + end logit (summed), for comparing answers of one model
  double no_answer_gap = 0;          // score of "no answer" minus that of the best span: above the threshold the answer is ""
};
struct TaggedWord {
  std::int64_t begin = 0, end = 0;   // bytes of the text
  Label label;
};
struct AskOptions {
  std::int64_t stride = 128;         // tokens that neighbouring windows of a long passage share
  std::int64_t max_answer_tokens = 30;
  std::int64_t best = 1;             // answers wanted
  double no_answer_threshold = 0;    // answer "" if no_answer_gap is above; used only if `allow_no_answer`
  bool allow_no_answer = true;
};

class EncoderModel {
 public:
  virtual ~EncoderModel() = default;
  virtual const ModelConfig& config() const = 0;
  virtual const std::string& name() const = 0;
  virtual const TokenizerPtr& tokenizer() const = 0;
  virtual std::int64_t tokens(const TextPair& text) const = 0;   // length with the template; for token counts in answers
  // What the model was trained for; each member below fails, naming what the model can do, if it lacks the head.
  virtual bool can_embed() const = 0;      // every text model: mean of the last hidden states unless trained otherwise
  virtual bool can_classify() const = 0;   // classification and regression
  virtual bool can_answer() const = 0;     // span QA
  virtual bool can_tag() const = 0;
  virtual bool can_rank() const = 0;       // a ranking head, otherwise cosine of embeddings
  virtual bool can_choose() const { return false; }   // multiple choice

  // [texts][hidden], each of length 1. A text longer than the context is cut, unless the caller checks tokens() first.
  virtual std::vector<std::vector<float>> embed(std::span<const std::string> texts) const = 0;
  // Per text all labels, best first; regression: one label "score".
  virtual std::vector<std::vector<Label>> classify(std::span<const TextPair> texts) const = 0;
  virtual std::vector<SpanAnswer> answer(const std::string& question, const std::string& passage,
                                         const AskOptions& options = {}) const = 0;
  virtual std::vector<std::vector<TaggedWord>> tag(std::span<const std::string> texts) const = 0;
  // One score a document, higher is better, in the given order.
  virtual std::vector<double> rank(const std::string& query, std::span<const std::string> documents) const = 0;
  // The probability of each choice to be the right one. `text.second`, where given, stands before each choice (a question after a
  // passage).
  virtual std::vector<double> choose(const TextPair& text, std::span<const std::string> choices) const;
};
using EncoderModelPtr = std::shared_ptr<const EncoderModel>;

EncoderModelPtr open_encoder_model(const std::filesystem::path& folder, const CompileOptions& compile = {});
EncoderModelPtr make_encoder_model(ModelPtr model, const CompileOptions& compile = {});

}  // namespace rhetor
