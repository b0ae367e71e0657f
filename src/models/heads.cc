// The heads of fine-tuned models: outputs and the inputs of their losses (losses.cc). Weights as in Hugging Face's classes:
// "classifier" (decoders: "score") and "qa_outputs".
#include <cmath>

#include "models/layers.h"

namespace rhetor {
namespace {

using Task = BuildSpec::Task;

bool wants_loss(const Net& net) { return net.spec().training || net.spec().with_loss; }

Value classifier(Net& net, Value x, const Encoded& encoded) {
  const std::int64_t labels = net.config().labels;
  const Task task = net.spec().task;
  const std::int64_t least = task == Task::classify || task == Task::tag ? 2 : 1;
  if (labels < least) {
    fail("a {} head of a {} model needs at least {} labels, the configuration has {}; set \"labels\"", name(task),
         net.config().family, least, labels);
  }
  return net.linear(x, encoded.classifier, Dim{labels, "labels"}, Layout::out_in, encoded.classifier_bias);
}

// Two scores a token: does the answer start or end here (Devlin et al. 2019, section 4.2).
void span_head(Net& net, const Encoded& encoded) {
  const Value scores = net.linear(encoded.hidden, "qa_outputs", Dim{2}, Layout::out_in, true);  // [B,S,2]
  const auto column = [&](std::int64_t i) { return reshape(slice(scores, 2, i, i + 1), Shape{net.batch(), net.seq()}); };
  const Value start = column(0), end = column(1);
  net.graph().output("start_logits", start);
  net.graph().output("end_logits", end);
  if (wants_loss(net)) net.graph().output("loss", span_loss(net, start, end, encoded.lengths));
}

void tag_head(Net& net, const Encoded& encoded) {
  const Value logits = classifier(net, net.dropout(encoded.hidden), encoded);  // [B,S,labels]
  net.graph().output("logits", logits);
  if (!wants_loss(net)) return;
  const std::int64_t rows = net.spec().batch * net.spec().seq;
  const Value targets = reshape(net.tokens("labels"), Shape{rows});
  net.graph().output("loss", classification_loss(net, reshape(logits, Shape{rows, logits.shape().dim(-1)}), targets));
}

// Mean over the real tokens, of length 1 (Reimers & Gurevych, "Sentence-BERT", 2019).
void embed_head(Net& net, const Encoded& encoded) {
  const Value real = net.real_tokens(encoded.lengths);  // [B,S]
  const Value weights = div(real, maximum(reduce_sum(real, {1}, true), scalar(net.graph(), DType::f32, 1.0)));
  // As a product [1,S] x [S,C] a text: nothing of the size of `hidden` is written.
  Value mean = matmul(reshape(weights, Shape{net.batch(), Dim{1}, net.seq()}), encoded.hidden);  // [B,1,C]
  mean = reshape(mean, Shape{net.batch(), net.hidden()});
  const Value squares = maximum(reduce_sum(square(mean), {1}, true), scalar(net.graph(), DType::f32, 1e-24));
  const Value embedding = mul(mean, rsqrt(squares));
  net.graph().output("embedding", embedding);
  if (wants_loss(net)) net.graph().output("loss", embedding_loss(net, embedding));
}

void scores_head(Net& net, const Encoded& encoded) {
  Graph& g = net.graph();
  const Value logits = classifier(net, encoded.pooled(), encoded);  // [B,labels]
  g.output("logits", logits);
  if (!wants_loss(net)) return;
  switch (net.spec().task) {
    case Task::regress:
      g.output("loss", regression_loss(net, logits));
      break;
    case Task::choice:
      g.output("loss", choice_loss(net, logits));
      break;
    case Task::rank:
      g.output("loss", ranking_loss(net, logits));
      break;
    default:
      g.output("loss", classification_loss(net, logits, net.per_sequence("labels")));
  }
}

}  // namespace

const std::vector<TaskKind>& task_kinds() {
  static const std::vector<TaskKind> kinds = {
      {"classification", Task::classify, "one label for a text or a pair of texts"},
      {"regression", Task::regress, "a number for a text or a pair of texts"},
      {"span", Task::span, "the part of a passage that answers a question, or none"},
      {"tagging", Task::tag, "one label a word"},
      {"choice", Task::choice, "the right one of several continuations or answers"},
      {"ranking", Task::rank, "a score for a query and a document"},
      {"embedding", Task::embed, "a vector for a text, near those of similar texts"},
  };
  return kinds;
}

const TaskKind* find_task_kind(std::string_view name) {
  for (const TaskKind& kind : task_kinds())
    if (kind.name == name) return &kind;
  return nullptr;
}

bool is_head(Task task) {
  for (const TaskKind& kind : task_kinds())
    if (kind.task == task) return true;
  return false;
}

void head(Net& net, const Encoded& encoded) {
  const auto scope = net.graph().scope("head");
  switch (net.spec().task) {
    case Task::span:
      span_head(net, encoded);
      break;
    case Task::tag:
      tag_head(net, encoded);
      break;
    case Task::embed:
      embed_head(net, encoded);
      break;
    default:
      scores_head(net, encoded);
  }
}

void decoder_head(Net& net, Value hidden) {
  const Value lengths = net.per_sequence("lengths");
  const bool tags = net.spec().task == Task::tag;
  head(net, {.hidden = hidden,
             .lengths = lengths,
             .pooled =
                 [&] {
                   const Value one = scalar(net.graph(), DType::i32, 1);
                   return net.pick_rows(hidden, sub(maximum(lengths, one), one));
                 },
             .classifier = tags ? "classifier" : "score",
             .classifier_bias = tags});
}

void decoder_outputs(Net& net, Value x, Value table, const std::function<Value(Value)>& norm) {
  if (net.spec().task == Task::hidden)
    net.graph().output("hidden", norm(x));
  else if (is_head(net.spec().task))
    decoder_head(net, norm(x));
  else
    net.language_head(x, table, "lm_head.weight", norm);
}

}  // namespace rhetor
