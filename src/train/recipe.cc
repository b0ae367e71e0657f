// Recipes: one table says of every key its name, type, range, meaning and whether it changes the result; parsing (recipe_toml.cc),
// writing, checking, the comparison on resume and the reference page are all derived from it.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "graph/op.h"
#include "train/loss_scale.h"
#include "train/recipe_keys.h"
#include "train/recipe_reference.h"

namespace rhetor {
namespace {

using Key = RecipeKey;

constexpr double kMany = 1e15;

}  // namespace

const std::vector<RecipeKey>& recipe_keys() {
  static const std::vector<Key> table = {
      {"model", "family", &Recipe::family, 0, 0, true,
       "Layout of the model: `gpt2`, `llama`, `bert` or `t5`, shaped by the size dial below; or the name of a preset such as "
       "`gpt2-124m`."},
      {"model", "layers", &Recipe::layers, 0, 1024, true,
       "The size dial: hidden size, heads, feed-forward size and context follow from it. 0 = 4, or what the preset says."},
      {"model", "hidden", &Recipe::hidden, 0, 1 << 20, true, "Hidden size. 0 = from the dial."},
      {"model", "heads", &Recipe::heads, 0, 4096, true, "Attention heads; must divide `hidden`. 0 = from the dial."},
      {"model", "kv_heads", &Recipe::kv_heads, 0, 4096, true,
       "Key and value heads (grouped-query attention); must divide `heads`. 0 = as many as `heads`, or from the dial."},
      {"model", "ffn", &Recipe::ffn, 0, 1 << 22, true, "Width of the feed-forward layer. 0 = from the dial."},
      {"model", "context", &Recipe::context, 0, 1 << 22, true, "Longest sequence in tokens. 0 = from the dial."},
      {"model", "dropout", &Recipe::dropout, 0, 0.9, true, "Share of activations dropped while training."},
      {"model", "vocab", &Recipe::vocab, 265, 1 << 24, true,
       "Size of the vocabulary of a tokenizer trained for this run (256 bytes, the special tokens, merges)."},
      {"data", "files", &Recipe::files, 0, 0, false,
       "Text, JSONL or folders of them, plain or .gz, .xz, .zst, or token folders made by `rhetor data tokenize`; relative to the "
       "recipe's folder."},
      {"data", "weights", &Recipe::weights, 1e-9, 1e9, true,
       "A blend: one number for each of `files`, in which proportion sequences are drawn from them, exact within one sequence at any time. "
       "Empty = each by its size."},
      {"data",
       "packing",
       &Recipe::packing,
       0,
       0,
       true,
       "gpt2 and llama: how documents make sequences. `stream`: one after the other, cut anywhere. `whole`: several to a sequence, only those "
       "longer than it are cut. `single`: one a sequence. In `stream` and `whole` attention is not separated: a document sees those before it "
       "in its sequence. bert: texts padded to `seq`, or `unpadded`: a batch is as many tokens as its texts have, only attention sees rows.",
       {"stream", "whole", "single", "unpadded"}},
      {"data",
       "masking",
       &Recipe::masking,
       0,
       0,
       true,
       "bert: what is masked together, single `tokens` or the tokens of whole `words`.",
       {"tokens", "words"}},
      {"data",
       "pairs",
       &Recipe::pairs,
       0,
       0,
       true,
       "bert: `next`: two segments, half of them consecutive, and the loss of telling which; `none`: one segment and no such loss.",
       {"next", "none"}},
      {"data", "corruption", &Recipe::corruption, 0.01, 0.9, true, "t5: share of the tokens that are taken out of the input and asked for."},
      {"data", "span", &Recipe::span, 1, 100, true, "t5: how many of them stand together on average."},
      {"data", "workers", &Recipe::workers, 1, 256, false, "Threads that prepare batches while others compute; does not change the batches."},
      {"data", "text_field", &Recipe::text_field, 0, 0, true,
       "JSONL: the field that holds the text. Records with `messages` are rendered as chats instead."},
      {"data", "separator", &Recipe::separator, 0, 0, true,
       "Plain text: a line that ends a document; empty = one document a file."},
      {"data", "tokenizer", &Recipe::tokenizer, 0, 0, false,
       "A tokenizer.json or a model folder to take the tokenizer from, relative to the recipe's folder; empty = train one."},
      {"data", "tokenizer_kind", &Recipe::tokenizer_kind, 0, 0, true,
       "What kind of tokenizer is trained: `byte-bpe` any bytes; `bpe` LLaMA-like; `wordpiece` BERT, lower case; `wordpiece-cased`; `unigram`.",
       {"byte-bpe", "bpe", "wordpiece", "wordpiece-cased", "unigram"}},
      {"data", "validation", &Recipe::validation, 0, 0.5, true, "Share of the documents kept for validation."},
      {"data", "validation_files", &Recipe::validation_files, 0, 0, false,
       "Tasks: files to validate on, in place of the share above; relative to the recipe's folder."},
      {"task", "kind", &Recipe::task, 0, 0, true,
       "What to fine-tune for: empty = language modelling on text. Else `data.files` are examples: TSV or CSV tables, JSONL or JSON "
       "records, SQuAD's JSON for `span`, word-a-line files for `tagging`.",
       {"", "classification", "regression", "span", "tagging", "choice", "ranking", "embedding"}},
      {"task", "text", &Recipe::text, 0, 0, true,
       "Column or JSON field of the text (question, query, words): its name, or the number of a column in a table without a heading. Empty = "
       "`text`, `question`, `query` or `words`."},
      {"task", "pair", &Recipe::pair, 0, 0, true,
       "Field of the second text (passage, document), `-` = none. Empty = the usual one: `context`, `document`, `pair`, or none."},
      {"task", "label", &Recipe::label, 0, 0, true, "Field of the label, number, tags or answers. Empty = `label`, `tags` or `answers`."},
      {"task", "choices", &Recipe::choices, 0, 0, true, "choice: the field that holds the list of choices, or one field a choice."},
      {"task", "labels", &Recipe::labels, 0, 0, true, "Names of the labels in the order of their numbers. Empty = those in the data, sorted."},
      {"task", "metric", &Recipe::metric, 0, 0, true,
       "The validation metric that decides which weights are best: `loss`, or one of the kind's: `accuracy`, `f1`, `macro_f1`, `matthews`; "
       "`pearson`, `spearman`, `mse`; `f1`, `exact`; `mrr`, `map`, `ndcg`. Empty = the kind's first one."},
      {"task", "class_weights", &Recipe::class_weights, 0, 0, true,
       "classification, tagging: a number a label, in quotes, or `balanced`: the rarer a label, the more it counts. Empty = all alike."},
      {"task", "stride", &Recipe::stride, 0, 1 << 20, true, "span: tokens that neighbouring windows of a long passage share."},
      {"task", "group", &Recipe::group, 2, 1024, true, "ranking: documents of a query in an example; more of them are sampled anew each time."},
      {"task",
       "ranking",
       &Recipe::ranking,
       0,
       0,
       true,
       "ranking: `listwise` (softmax over the group), `pairwise` (each better document against each worse), `pointwise` (each alone).",
       {"listwise", "pairwise", "pointwise"}},
      {"task",
       "embedding",
       &Recipe::embedding,
       0,
       0,
       true,
       "embedding: `contrastive`: text and pair belong together, all other pairs of the batch do not; `cosine`: the label is how alike they are.",
       {"contrastive", "cosine"}},
      {"task", "temperature", &Recipe::temperature, 1e-4, 100, true, "embedding, contrastive: what cosines are divided by."},
      {"task", "scale", &Recipe::scale, 1e-9, 1e9, true, "embedding, cosine: what labels are divided by: 5 for labels from 0 to 5."},
      {"lora", "rank", &Recipe::lora_rank, 0, 1 << 16, true,
       "Above 0: the weights of `train.from` stay, and adapters of this rank are trained beside its linear layers (LoRA). The output folder "
       "then holds the adapter, in PEFT's names; every command reads it as the model, `rhetor merge` writes that out."},
      {"lora", "alpha", &Recipe::lora_alpha, 0, 1e6, true, "Adapters count `alpha` / `rank` times. 0 = twice the rank."},
      {"lora", "targets", &Recipe::lora_targets, 0, 0, true,
       "Linear layers that get adapters, by the ends of their names: `[\"q_proj\", \"v_proj\"]`; or `all`. Empty = the attention's queries and "
       "values."},
      {"lora", "dropout", &Recipe::lora_dropout, 0, 0.9, true, "Share of an adapter's inputs dropped while training."},
      {"train", "from", &Recipe::from, 0, 0, true,
       "A model folder whose configuration, tokenizer and weights training begins with, relative to the recipe's folder; [model] then gives "
       "`dropout` only."},
      {"train", "steps", &Recipe::steps, 1, kMany, true, "Optimiser steps."},
      {"train", "epochs", &Recipe::epochs, 0, 1e6, true, "Tasks: if above 0, `steps` is what so many passes over the examples take."},
      {"train", "minutes", &Recipe::minutes, 0, 1e6, true,
       "If above 0, a few steps are timed first and `steps` is chosen so that training takes about this long here."},
      {"train", "batch", &Recipe::batch, 1, 1 << 20, true, "Sequences in a micro-batch."},
      {"train", "seq", &Recipe::seq, 0, 1 << 22, true, "Tokens in a training sequence. 0 = the context."},
      {"train", "accumulation", &Recipe::accumulation, 1, 1 << 20, true,
       "Micro-batches a step: gradients of `accumulation` x `batch` sequences are averaged before the update."},
      {"train", "lr", &Recipe::lr, 1e-12, 100, true, "Highest learning rate."},
      {"train", "min_lr_ratio", &Recipe::min_lr_ratio, 0, 1, true,
       "Learning rate at the end, as a share of `lr`."},
      {"train",
       "schedule",
       &Recipe::schedule,
       0,
       0,
       true,
       "How the rate falls from `lr` after the warm-up: along a cosine, linearly, as a power of what is left, or not at all.",
       {"cosine", "linear", "polynomial", "constant"}},
      {"train", "power", &Recipe::power, 0.01, 100, true, "The power of schedule `polynomial`."},
      {"train",
       "optimizer",
       &Recipe::optimizer,
       0,
       0,
       true,
       "`adamw`, or `lamb`: each matrix takes steps in proportion to its own length, for very large batches.",
       {"adamw", "lamb"}},
      {"train", "layer_decay", &Recipe::layer_decay, 0.01, 1, true,
       "The rate of a layer is `layer_decay` times that of the layer above it; embeddings are lowest, heads take `lr`."},
      {"train", "label_smoothing", &Recipe::label_smoothing, 0, 0.9, true,
       "classification, tagging: this share of each target is spread over all labels."},
      {"train", "early_stop", &Recipe::early_stop, 0, 1e6, true,
       "Validations without a better metric after which training ends, keeping the best weights. 0 = never."},
      {"train", "warmup", &Recipe::warmup, 0, 1, true, "Share of the steps in which the learning rate climbs linearly from 0."},
      {"train", "weight_decay", &Recipe::weight_decay, 0, 10, true,
       "Decoupled weight decay; matrices only, never biases and norms."},
      {"train", "beta1", &Recipe::beta1, 0, 0.99999, true, "Decay of the first moment."},
      {"train", "beta2", &Recipe::beta2, 0, 0.9999999, true, "Decay of the second moment."},
      {"train", "eps", &Recipe::eps, 1e-30, 1, true, "Added to the root of the second moment."},
      {"train", "clip", &Recipe::clip, 0, 1e9, true,
       "Largest global norm of the gradient; longer ones are scaled down. 0 = no clipping."},
      {"train",
       "precision",
       &Recipe::precision,
       0,
       0,
       true,
       "What contractions compute in; weights, moments, norms, softmax and sums stay f32. `bf16`. `f16`: with dynamic loss scaling. `fp8`: "
       "products with a weight in FP8, one scale a tensor (weights and activations e4m3, gradients e5m2); embeddings, heads and attention "
       "in bf16.",
       {"f32", "bf16", "f16", "fp8"}},
      {"train", "loss_scale", &Recipe::loss_scale, kLeastLossScale, kGreatestLossScale, true,
       "f16: what the loss is multiplied by at first, a power of two. An overflow leaves the update out and halves it."},
      {"train", "loss_scale_growth", &Recipe::loss_scale_growth, 1, kMany, true,
       "f16: the loss scale doubles after so many updates without an overflow."},
      {"train", "fp8_wide_layers", &Recipe::fp8_wide_layers, 0, 512, true,
       "fp8: so many layers at the bottom and as many at the top stay in bf16."},
      {"train",
       "storage",
       &Recipe::storage,
       0,
       0,
       true,
       "What weights and moments are kept in. `bf16`: 6 bytes a parameter in place of 12, no f32 copies; updates are computed in f32 and rounded "
       "stochastically, up or down with the expectation kept. The finished model is written in f32.",
       {"f32", "bf16"}},
      {"train", "memory_budget", &Recipe::memory_budget, 0, 1e18, true,
       "Bytes that activations may take; above it some are recomputed in the backward pass. 0 = no limit."},
      {"train", "seed", &Recipe::seed, 0, 9007199254740992.0, true,
       "Seed of weights, shuffling and dropout: the same seed gives the same run."},
      {"train",
       "on_nan",
       &Recipe::on_nan,
       0,
       0,
       true,
       "What to do when the gradient is not finite. The update is left out in any case; `skip` goes on with the next batch, "
       "`rollback` also "
       "returns to the newest checkpoint's weights, `stop` ends with an error.",
       {"skip", "stop", "rollback"}},
      {"parallel",
       "strategy",
       &Recipe::strategy,
       0,
       0,
       false,
       "With several ranks, what each keeps: `ddp`: everything; `zero1`: its part of the optimiser's state; `zero2`: and of the gradients; "
       "`zero3`: and of the weights. The losses agree within rounding.",
       {"ddp", "zero1", "zero2", "zero3"}},
      {"output", "folder", &Recipe::folder, 0, 0, false, "Where the model, checkpoints, metrics.jsonl and loss.svg go."},
      {"output",
       "keep",
       &Recipe::keep,
       0,
       0,
       true,
       "Which weights become the model: those of the `last` step, or of the `best` validation.",
       {"last", "best"}},
      {"output", "validate_every", &Recipe::validate_every, 0, kMany, true, "Steps between validations. 0 = only at the end."},
      {"output", "validation_batches", &Recipe::validation_batches, 1, kMany, true, "Batches a validation reads at most (tasks: all there are)."},
      {"output", "checkpoint_every", &Recipe::checkpoint_every, 0, kMany, false,
       "Steps between checkpoints, written in the background. 0 = only at the end and on interrupt."},
      {"output", "keep_checkpoints", &Recipe::keep_checkpoints, 1, 1000, false,
       "How many of the newest checkpoints stay on disk."},
  };
  return table;
}

std::string full_name(const Key& key) { return fmt::format("{}.{}", key.section, key.name); }

namespace {

std::string quote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\')
      out += '\\', out += c;
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      out += fmt::format("\\u{:04x}", static_cast<unsigned char>(c));
    else
      out += c;
  }
  return out + '"';
}

std::string toml_number(double value) {
  std::string text = fmt::format("{}", value);
  // TOML tells a float from an integer by its point or exponent.
  return text.find_first_of(".en") == std::string::npos ? text + ".0" : text;
}

}  // namespace

std::string value_text(const Recipe& recipe, const Key& key) {
  return std::visit(
      [&]<class T>(T Recipe::*member) -> std::string {
        if constexpr (std::is_same_v<T, std::string>) {
          return quote(recipe.*member);
        } else if constexpr (std::is_same_v<T, double>) {
          return toml_number(recipe.*member);
        } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
          std::string out = "[";
          for (const auto& item : recipe.*member) out += (out.size() > 1 ? ", " : "") + quote(item);
          return out + "]";
        } else if constexpr (std::is_same_v<T, std::vector<double>>) {
          std::string out = "[";
          for (const double item : recipe.*member) out += (out.size() > 1 ? ", " : "") + toml_number(item);
          return out + "]";
        } else {
          return fmt::format("{}", recipe.*member);
        }
      },
      key.field);
}

namespace {

std::string range_text(const Key& key) {
  if (key.high >= kMany) return fmt::format("at least {:g}", key.low);
  if (key.high == std::floor(key.high) && key.high < 1e9) return fmt::format("from {:g} to {:.0f}", key.low, key.high);
  return fmt::format("from {:g} to {:g}", key.low, key.high);
}

}  // namespace

std::string Recipe::to_toml() const {
  std::string out;
  std::string_view section;
  for (const Key& key : recipe_keys()) {
    if (key.section != section) out += fmt::format("{}[{}]\n", out.empty() ? "" : "\n", key.section);
    section = key.section;
    out += fmt::format("{} = {}\n", key.name, value_text(*this, key));
  }
  return out;
}

void Recipe::validate() const {
  for (const Key& key : recipe_keys()) {
    std::visit(
        [&]<class T>(T Recipe::*member) {
          if constexpr (std::is_arithmetic_v<T>) {
            const auto value = static_cast<double>(this->*member);
            if (!(value >= key.low && value <= key.high)) {  // also catches NaN
              fail("{} must be {}, found {}", full_name(key), range_text(key), value_text(*this, key));
            }
          } else if constexpr (std::is_same_v<T, std::vector<double>>) {
            for (const double value : this->*member) {
              if (!(value >= key.low && value <= key.high)) fail("{} must be {}, found {}", full_name(key), range_text(key), value);
            }
          } else if constexpr (std::is_same_v<T, std::string>) {
            if (key.choices.empty()) return;
            std::string list;
            for (auto choice : key.choices) {
              if (choice == this->*member) return;
              list += fmt::format("{}{}", list.empty() ? "" : ", ", choice);
            }
            fail("{} must be one of {}, found \"{}\"", full_name(key), list, this->*member);
          }
        },
        key.field);
  }
  if (files.empty()) fail("data.files is empty; name at least one {} to train on", task.empty() ? "text or JSONL file" : "file of examples");
  if (!weights.empty() && weights.size() != files.size())
    fail("data.weights has {} numbers and data.files {} names; give one weight for each", weights.size(), files.size());
  if (folder.empty()) fail("output.folder is empty; name the folder the model is written to");
  if (context > 0 && seq > context)
    fail("train.seq is {} and model.context {}: a training sequence cannot be longer than the context", seq, context);
  if (task.empty() && !validation_files.empty()) fail("data.validation_files is for tasks; without task.kind give data.validation, a share of the text");
  if (task.empty() && epochs > 0) fail("train.epochs is for tasks; without task.kind give train.steps or train.minutes");
  if (epochs > 0 && minutes > 0) fail("train.epochs and train.minutes both decide how long to train; give one of them");
  if (lora_rank > 0 && from.empty()) fail("lora.rank is {}, but there is no finished model to adapt; name its folder in train.from", lora_rank);
  if (lora_rank == 0 && !lora_targets.empty()) fail("lora.targets is given, but lora.rank is 0; 8 or 16 is a usual rank");
  if (std::exp2(std::round(std::log2(loss_scale))) != loss_scale)
    fail("train.loss_scale is {}; it must be a power of two, such as 65536, so that scaling rounds nothing", loss_scale);
  if (fp8_wide_layers > 0 && precision != "fp8")
    fail("train.fp8_wide_layers is {}, but train.precision is \"{}\"; it is for fp8", fp8_wide_layers, precision);
  if (!from.empty()) {
    if (layers + hidden + heads + kv_heads + ffn + context > 0)
      fail("train.from is '{}', which gives the model's sizes; leave layers, hidden, heads, kv_heads, ffn and context out of [model]", from);
    if (!tokenizer.empty()) fail("train.from brings its own tokenizer; leave data.tokenizer out");
    return;
  }
  std::vector<std::string_view> known;
  for (const auto& entry : model_families()) known.push_back(entry.name);
  const auto presets = model_preset_names();
  known.insert(known.end(), presets.begin(), presets.end());
  if (std::find(known.begin(), known.end(), family) != known.end()) {
    model_config(vocab);  // fails for sizes that make no model: before any text is read
    return;
  }
  const std::string near = nearest(family, known);
  fail("model.family must be gpt2, llama, bert, t5 or a preset, found \"{}\"{}", family,
       near.empty() ? "" : "; did you mean \"" + near + "\"?");
}

ModelConfig Recipe::model_config(std::int64_t vocab_size) const {
  bool is_family = false;
  for (const auto& entry : model_families()) is_family |= entry.name == family;
  if (is_family && layers > 256) fail("model.layers is {}; the size dial goes from 1 to 256, 0 = 4", layers);
  ModelConfig config = is_family ? size_dial(family, layers > 0 ? layers : 4, vocab_size) : model_preset(family);
  config.vocab = vocab_size;
  if (layers > 0) config.layers = layers;
  if (hidden > 0 && hidden != config.hidden) {
    // The rest of the dial follows the new width: 64 to a head where that divides, 4x (or 8/3x, gated) feed-forward.
    const bool gated = config.family == "llama";
    config.hidden = hidden;
    std::int64_t head = 64;
    while (head > 1 && hidden % head != 0) head /= 2;
    config.heads = config.kv_heads = std::max<std::int64_t>(1, hidden / head);
    config.ffn = gated ? (hidden * 8 / 3 + 31) / 32 * 32 : 4 * hidden;
  }
  if (heads > 0 && heads != config.heads) config.heads = config.kv_heads = heads;
  if (kv_heads > 0) config.kv_heads = kv_heads;
  if (ffn > 0) config.ffn = ffn;
  if (context > 0) config.context = context;
  config.dropout = dropout;
  if (seq > config.context)
    fail("train.seq is {} but the context is {}; raise model.context or lower train.seq", seq, config.context);
  config.validate();
  return config;
}

std::string recipe_difference(const Recipe& there, const Recipe& here) {
  for (const Key& key : recipe_keys()) {
    const std::string a = value_text(there, key), b = value_text(here, key);
    // With `minutes` the number of steps is chosen by the run.
    if (key.name == "steps" && there.minutes > 0 && here.minutes > 0) continue;
    if (key.result && a != b) return fmt::format("{} is {} there and {} here", full_name(key), a, b);
  }
  return "";
}

std::string recipe_reference() {
  std::string out =
      "# Recipes\n\nA recipe is a TOML file that describes one training run: `rhetor train recipes/gpt-small.toml`. Any key can "
      "be\n"
      "overridden on the command line: `--set train.lr=3e-4`. Every key has a default that works; only `data.files` must be\n"
      "given. An unknown key is an error that names the nearest known one.\n\nThis page is generated from the table that parses "
      "recipes.\n";
  const Recipe defaults;
  std::string_view section;
  for (const Key& key : recipe_keys()) {
    if (key.section != section)
      out += fmt::format("\n## [{}]\n\n| key | default | legal | meaning |\n|---|---|---|---|\n", key.section);
    section = key.section;
    std::string legal = std::visit(
        [&]<class T>(T Recipe::*) -> std::string {
          if constexpr (std::is_same_v<T, std::string>)
            return "text";
          else if constexpr (std::is_same_v<T, double>)
            return "number " + range_text(key);
          else if constexpr (std::is_arithmetic_v<T>)
            return "whole number " + range_text(key);
          else
            return "list of texts";
        },
        key.field);
    if (!key.choices.empty()) {
      legal.clear();
      for (auto choice : key.choices) legal += fmt::format("{}`{}`", legal.empty() ? "" : ", ", choice);
    }
    out += fmt::format("| `{}` | `{}` | {} | {} |\n", key.name, value_text(defaults, key), legal, key.doc);
  }
  return out;
}

}  // namespace rhetor
