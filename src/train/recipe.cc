// Recipes: one table says of every key its name, type, range, meaning and whether it changes the result; parsing,
// writing, checking, the comparison on resume and the reference page are all derived from it.
// toml++ asserts where some malformed keys begin ("[!a]"); they are the user's mistake, so its assertions throw, in every build.
#include <stdexcept>

[[noreturn]] static void refuse_toml() { throw std::logic_error("a key or value begins with a character that cannot"); }
#undef NDEBUG
#define TOML_ASSERT(expr) ((expr) ? void() : refuse_toml())
#include <toml++/toml.h>

#include <algorithm>
#include <cmath>
#include <sstream>
#include <variant>

#include "base/error.h"
#include "base/file.h"
#include "graph/op.h"
#include "train/recipe_reference.h"
#include "train/trainer.h"

namespace rhetor {
namespace {

using Field = std::variant<std::string Recipe::*, std::int64_t Recipe::*, std::uint64_t Recipe::*, double Recipe::*,
                           std::vector<std::string> Recipe::*>;

struct Key {
  std::string_view section, name;
  Field field;
  double low, high;  // legal numbers, inclusive
  bool result;       // changes what training computes: must agree when a run is continued
  std::string_view doc;
  std::vector<std::string_view> choices = {};
};

constexpr double kMany = 1e15;

const std::vector<Key>& keys() {
  static const std::vector<Key> table = {
      {"model", "family", &Recipe::family, 0, 0, true,
       "Layout of the model: `gpt2`, `llama` or `bert`, shaped by the size dial below; or the name of a preset such as "
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
       "Text, JSONL or folders of them, plain or .gz, .xz, .zst; relative to the recipe's folder."},
      {"data", "text_field", &Recipe::text_field, 0, 0, true,
       "JSONL: the field that holds the text. Records with `messages` are rendered as chats instead."},
      {"data", "separator", &Recipe::separator, 0, 0, true,
       "Plain text: a line that ends a document; empty = one document a file."},
      {"data", "tokenizer", &Recipe::tokenizer, 0, 0, false,
       "A tokenizer.json or a model folder to take the tokenizer from, relative to the recipe's folder; empty = train one."},
      {"data", "validation", &Recipe::validation, 0, 0.5, true, "Share of the documents kept for validation."},
      {"train", "steps", &Recipe::steps, 1, kMany, true, "Optimiser steps."},
      {"train", "minutes", &Recipe::minutes, 0, 1e6, true,
       "If above 0, a few steps are timed first and `steps` is chosen so that training takes about this long here."},
      {"train", "batch", &Recipe::batch, 1, 1 << 20, true, "Sequences in a micro-batch."},
      {"train", "seq", &Recipe::seq, 0, 1 << 22, true, "Tokens in a training sequence. 0 = the context."},
      {"train", "accumulation", &Recipe::accumulation, 1, 1 << 20, true,
       "Micro-batches a step: gradients of `accumulation` x `batch` sequences are averaged before the update."},
      {"train", "lr", &Recipe::lr, 1e-12, 100, true, "Highest learning rate (AdamW)."},
      {"train", "min_lr_ratio", &Recipe::min_lr_ratio, 0, 1, true,
       "Learning rate at the end, as a share of `lr` (cosine decay)."},
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
       "`f32`, or `bf16`: contractions in bfloat16; weights, moments and reductions stay f32.",
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
      {"output", "folder", &Recipe::folder, 0, 0, false, "Where the model, checkpoints, metrics.jsonl and loss.svg go."},
      {"output", "validate_every", &Recipe::validate_every, 0, kMany, true, "Steps between validations. 0 = only at the end."},
      {"output", "validation_batches", &Recipe::validation_batches, 1, kMany, true, "Batches a validation reads at most."},
      {"output", "checkpoint_every", &Recipe::checkpoint_every, 0, kMany, false,
       "Steps between checkpoints, written in the background. 0 = only at the end and on interrupt."},
      {"output", "keep_checkpoints", &Recipe::keep_checkpoints, 1, 1000, false,
       "How many of the newest checkpoints stay on disk."},
  };
  return table;
}

std::vector<std::string_view> section_names() {
  std::vector<std::string_view> names;
  for (const Key& key : keys()) {
    if (names.empty() || names.back() != key.section) names.push_back(key.section);
  }
  return names;
}

std::string full_name(const Key& key) { return fmt::format("{}.{}", key.section, key.name); }

// "did you mean train.lr?" or the list of what there is.
[[noreturn]] void fail_unknown(std::string_view where, std::string_view section, std::string_view name) {
  std::vector<std::string> owned;
  std::vector<std::string_view> local, all;
  for (const Key& key : keys()) owned.push_back(full_name(key));
  for (const Key& key : keys()) {
    if (key.section == section) local.push_back(key.name);
    if (key.name == name) fail("{}: there is no key {}.{}; did you mean {}?", where, section, name, full_name(key));
  }
  if (std::string near = nearest(name, local); !near.empty()) {
    fail("{}: there is no key {}.{}; did you mean {}.{}?", where, section, name, section, near);
  }
  all.assign(owned.begin(), owned.end());
  if (std::string near = nearest(fmt::format("{}.{}", section, name), all); !near.empty()) {
    fail("{}: there is no key {}.{}; did you mean {}?", where, section, name, near);
  }
  std::string list;
  for (auto known : local) list += fmt::format("{}{}", list.empty() ? "" : ", ", known);
  fail("{}: there is no key {}.{}; [{}] has {}", where, section, name, section, list);
}

void check_section(std::string_view where, std::string_view section) {
  const auto names = section_names();
  for (auto known : names) {
    if (known == section) return;
  }
  for (const Key& key : keys()) {
    if (key.name == section) fail("{}: '{}' stands outside its section; write it under [{}]", where, section, key.section);
  }
  const std::string near = nearest(section, names);
  if (!near.empty()) fail("{}: there is no section [{}]; did you mean [{}]?", where, section, near);
  fail("{}: there is no section [{}]; the sections are model, data, train and output", where, section);
}

const Key& find_key(std::string_view where, std::string_view section, std::string_view name) {
  check_section(where, section);
  for (const Key& key : keys()) {
    if (key.section == section && key.name == name) return key;
  }
  fail_unknown(where, section, name);
}

std::string describe(const toml::node& node) {
  std::ostringstream text;
  node.visit([&](const auto& value) {
    if constexpr (toml::is_table<decltype(value)>)
      text << "a table";
    else if constexpr (toml::is_array<decltype(value)>)
      text << "a list";
    else if constexpr (toml::is_string<decltype(value)>)
      text << "the text \"" << value.get() << '"';
    else if constexpr (toml::is_boolean<decltype(value)>)
      text << (value.get() ? "true" : "false");
    else
      text << value;
  });
  return text.str();
}

[[noreturn]] void fail_type(std::string_view where, const Key& key, std::string_view expected, const toml::node& found) {
  fail("{}: {} must be {}, found {}", where, full_name(key), expected, describe(found));
}

void assign(Recipe& recipe, const Key& key, const toml::node& node, std::string_view where) {
  std::visit(
      [&]<class T>(T Recipe::*member) {
        if constexpr (std::is_same_v<T, std::string>) {
          const auto* text = node.as_string();
          if (!text) fail_type(where, key, "text in quotes", node);
          recipe.*member = text->get();
        } else if constexpr (std::is_same_v<T, double>) {
          if (!node.is_number()) fail_type(where, key, "a number", node);
          recipe.*member = *node.value<double>();
        } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
          std::vector<std::string> list;
          if (const auto* one = node.as_string()) {
            list.push_back(one->get());
          } else if (const auto* array = node.as_array()) {
            for (const auto& item : *array) {
              if (!item.is_string()) fail_type(where, key, "a list of texts", item);
              list.push_back(item.as_string()->get());
            }
          } else {
            fail_type(where, key, "a list of texts", node);
          }
          recipe.*member = std::move(list);
        } else {
          const auto* integer = node.as_integer();
          if (!integer) fail_type(where, key, "a whole number", node);
          if (std::is_unsigned_v<T> && integer->get() < 0) fail_type(where, key, "a whole number that is not negative", node);
          recipe.*member = static_cast<T>(integer->get());
        }
      },
      key.field);
}

// TOML allows characters beyond ASCII in strings and comments only; toml++ 3.3 has undefined behaviour on some of them elsewhere.
void refuse_stray_characters(std::string_view text, std::string_view where) {
  int line = 1;
  for (std::size_t i = text.starts_with("\xef\xbb\xbf") ? 3 : 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\n') {
      ++line;
    } else if (c == '#') {
      i = std::min(text.find('\n', i), text.size()) - 1;
    } else if (c == '"' || c == '\'') {
      const bool block = text.size() - i >= 3 && text[i + 1] == c && text[i + 2] == c;
      const std::string_view end = text.substr(i, block ? 3 : 1);
      for (i += end.size(); i < text.size() && text.substr(i, end.size()) != end; ++i) {
        if (text[i] == '\n') ++line;
        if (text[i] == '\n' && !block) break;   // not closed: toml++ says so
        if (text[i] == '\\' && c == '"') ++i;
      }
      i += end.size() - 1;
    } else if (static_cast<unsigned char>(c) >= 0x80) {
      fail("{}: line {}: a character that is not ASCII stands outside quotes; put the text in \"quotes\"", where, line);
    }
  }
}

toml::table parse_toml(std::string_view text, std::string_view where) {
  refuse_stray_characters(text, where);
  try {
    return toml::parse(text);
  } catch (const toml::parse_error& error) {
    fail("{}: line {}, column {}: not valid TOML: {}", where, error.source().begin.line, error.source().begin.column,
         error.description());
  } catch (const std::logic_error& error) {
    fail("{}: not valid TOML: {}", where, error.what());
  }
}

void apply_override(Recipe& recipe, const std::string& text) {
  const std::size_t equals = text.find('=');
  const std::size_t dot = text.find('.');
  if (equals == std::string::npos || dot == std::string::npos || dot > equals) {
    fail("--set '{}': expected section.key=value, such as train.lr=3e-4", text);
  }
  const std::string where = fmt::format("--set '{}'", text);
  const Key& key =
      find_key(where, std::string_view(text).substr(0, dot), std::string_view(text).substr(dot + 1, equals - dot - 1));
  const std::string value = text.substr(equals + 1);
  // Bare text (no quotes) is meant as it stands where the key holds text.
  const bool quoted = !value.empty() && (value.front() == '"' || value.front() == '\'' || value.front() == '[');
  if (!quoted && std::holds_alternative<std::string Recipe::*>(key.field)) {
    recipe.*std::get<std::string Recipe::*>(key.field) = value;
  } else if (!quoted && std::holds_alternative<std::vector<std::string> Recipe::*>(key.field)) {
    recipe.*std::get<std::vector<std::string> Recipe::*>(key.field) = {value};
  } else {
    const toml::table table = parse_toml("value = " + value, where);
    assign(recipe, key, *table.get("value"), where);
  }
}

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

std::string number(double value) {
  std::string text = fmt::format("{}", value);
  // TOML tells a float from an integer by its point or exponent.
  return text.find_first_of(".en") == std::string::npos ? text + ".0" : text;
}

std::string value_text(const Recipe& recipe, const Key& key) {
  return std::visit(
      [&]<class T>(T Recipe::*member) -> std::string {
        if constexpr (std::is_same_v<T, std::string>) {
          return quote(recipe.*member);
        } else if constexpr (std::is_same_v<T, double>) {
          return number(recipe.*member);
        } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
          std::string out = "[";
          for (const auto& item : recipe.*member) out += (out.size() > 1 ? ", " : "") + quote(item);
          return out + "]";
        } else {
          return fmt::format("{}", recipe.*member);
        }
      },
      key.field);
}

std::string range_text(const Key& key) {
  if (key.high >= kMany) return fmt::format("at least {:g}", key.low);
  if (key.high == std::floor(key.high) && key.high < 1e9) return fmt::format("from {:g} to {:.0f}", key.low, key.high);
  return fmt::format("from {:g} to {:g}", key.low, key.high);
}

// Paths inside the recipe are relative to `base`, its folder; paths given by --set to where the user stands.
Recipe read(std::string_view text, const std::string& name, const std::filesystem::path& base,
            const std::vector<std::string>& overrides) {
  const std::string where = fmt::format("recipe '{}'", name);
  Recipe recipe;
  for (const auto& [section, node] : parse_toml(text, where)) {
    check_section(where, section.str());
    const auto* table = node.as_table();
    if (!table) fail("{}: [{}] must be a section with keys, found {}", where, section.str(), describe(node));
    for (const auto& [key, value] : *table) assign(recipe, find_key(where, section.str(), key.str()), value, where);
  }
  for (auto& path : recipe.files) path = (base / path).lexically_normal().string();
  if (!recipe.tokenizer.empty()) recipe.tokenizer = (base / recipe.tokenizer).lexically_normal().string();
  for (const auto& override_text : overrides) apply_override(recipe, override_text);
  try {
    recipe.validate();
  } catch (const Error& error) {
    throw Error(error.kind(), fmt::format("{}: {}", where, error.what()));
  }
  return recipe;
}

}  // namespace

Recipe Recipe::parse(std::string_view toml, const std::string& name, const std::vector<std::string>& overrides) {
  return read(toml, name, "", overrides);
}

Recipe Recipe::load(const std::filesystem::path& file, const std::vector<std::string>& overrides) {
  return read(read_file(file, 1 << 20), file.string(), file.parent_path(), overrides);
}

std::string Recipe::to_toml() const {
  std::string out;
  std::string_view section;
  for (const Key& key : keys()) {
    if (key.section != section) out += fmt::format("{}[{}]\n", out.empty() ? "" : "\n", key.section);
    section = key.section;
    out += fmt::format("{} = {}\n", key.name, value_text(*this, key));
  }
  return out;
}

void Recipe::validate() const {
  for (const Key& key : keys()) {
    std::visit(
        [&]<class T>(T Recipe::*member) {
          if constexpr (std::is_arithmetic_v<T>) {
            const auto value = static_cast<double>(this->*member);
            if (!(value >= key.low && value <= key.high)) {  // also catches NaN
              fail("{} must be {}, found {}", full_name(key), range_text(key), value_text(*this, key));
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
  if (files.empty()) fail("data.files is empty; name at least one text or JSONL file to train on");
  if (folder.empty()) fail("output.folder is empty; name the folder the model is written to");
  if (context > 0 && seq > context)
    fail("train.seq is {} and model.context {}: a training sequence cannot be longer than the context", seq, context);
  std::vector<std::string_view> known;
  for (const auto& entry : model_families()) known.push_back(entry.name);
  const auto presets = model_preset_names();
  known.insert(known.end(), presets.begin(), presets.end());
  if (std::find(known.begin(), known.end(), family) != known.end()) {
    model_config(vocab);  // fails for sizes that make no model: before any text is read
    return;
  }
  const std::string near = nearest(family, known);
  fail("model.family must be gpt2, llama, bert or a preset, found \"{}\"{}", family,
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
  for (const Key& key : keys()) {
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
  for (const Key& key : keys()) {
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
