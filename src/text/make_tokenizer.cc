#include "text/make_tokenizer.h"

#include <fmt/core.h>

#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "base/thread_pool.h"
#include "text/pipeline.h"
#include "text/token_model.h"
#include "text/vocabulary_json.h"

namespace rhetor {
namespace {

constexpr std::size_t kBatchBytes = 8 << 20;   // of documents that the cores share at a time

struct Preset {
  std::string_view kind;
  std::vector<std::string> specials;
  std::string unknown, prefix;
  bool byte_fallback;
  TokenModelPtr (*train)(const std::vector<WordCount>&, const ModelTrainOptions&);
  std::string_view parts;              // of tokenizer.json
  std::int64_t min_count;              // of what becomes a token
  std::string_view single, pair;       // the template: tokens, "$A" and "$B"; the pair's second half is segment 1
};

const std::vector<Preset>& presets() {
  static constexpr std::string_view bert =
      R"("normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
  "pre_tokenizer": {"type": "BertPreTokenizer"},
  "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true})";
  static constexpr std::string_view bert_cased =
      R"("normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": false, "lowercase": false},
  "pre_tokenizer": {"type": "BertPreTokenizer"},
  "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true})";
  static constexpr std::string_view bpe =
      R"("normalizer": null,
  "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
  "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
    {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})";
  static constexpr std::string_view unigram =
      R"("normalizer": {"type": "Sequence", "normalizers": [{"type": "Nmt"}, {"type": "NFKC"},
    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]},
  "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
  "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true})";
  static constexpr std::string_view words = R"("normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "Whitespace"}, "decoder": null)";
  static const std::vector<std::string> bert_specials = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  static const std::vector<Preset> list = {
      {"bpe", {"<unk>", "<s>", "</s>", "<pad>"}, "<unk>", "", true, train_bpe, bpe, 2, "<s> $A", "<s> $A <s> $B"},
      {"wordpiece", bert_specials, "[UNK]", "##", false, train_wordpiece, bert, 2, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]"},
      {"wordpiece-cased", bert_specials, "[UNK]", "##", false, train_wordpiece, bert_cased, 2, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]"},
      {"unigram", {"<pad>", "</s>", "<unk>", "<mask>"}, "<unk>", "", false, train_unigram, unigram, 2, "$A </s>", "$A </s> $B </s>"},
      {"word-level", bert_specials, "[UNK]", "", false, train_word_level, words, 1, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]"},
  };
  return list;
}

// A template in tokenizer.json's form. Tokens the model does not have are left out.
std::string template_json(const Preset& preset, const TokenModel& model) {
  std::string used;
  const auto pieces = [&](std::string_view text) {
    std::string out;
    int segment = 0;
    while (!text.empty()) {
      const std::string_view word = text.substr(0, text.find(' '));
      text.remove_prefix(std::min(text.size(), word.size() + 1));
      if (word[0] == '$') {
        segment = word == "$B";
        out += fmt::format(R"({}{{"Sequence": {{"id": "{}", "type_id": {}}}}})", out.empty() ? "" : ", ", word.substr(1), segment);
      } else if (const TokenId id = model.id(word); id >= 0) {
        out += fmt::format(R"({}{{"SpecialToken": {{"id": {}, "type_id": {}}}}})", out.empty() ? "" : ", ", json_string(word), segment);
        const std::string entry = fmt::format(R"({0}: {{"id": {0}, "ids": [{1}], "tokens": [{0}]}})", json_string(word), id);
        if (used.find(entry) == std::string::npos) used += (used.empty() ? "" : ", ") + entry;
      }
    }
    return out;
  };
  const std::string single = pieces(preset.single), pair = pieces(preset.pair);
  return fmt::format(R"({{"type": "TemplateProcessing", "single": [{}], "pair": [{}], "special_tokens": {{{}}}}})", single, pair, used);
}

// Counts words on all cores: each task takes documents of a batch and has its own table.
std::vector<WordCount> count_words(const std::function<bool(std::string&)>& documents, const WordSplitter& splitter) {
  using Counts = std::unordered_map<std::string, std::int64_t>;
  const int tasks = default_pool().threads();
  std::vector<Counts> tables(static_cast<std::size_t>(tasks));
  std::vector<std::string> batch;
  bool more = true;
  while (more) {
    batch.clear();
    std::size_t bytes = 0;
    for (std::string document; bytes < kBatchBytes && (more = documents(document));) {
      bytes += document.size();
      batch.push_back(std::move(document));
    }
    default_pool().parallel_for(tasks, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t task = begin; task < end; ++task) {
        Counts& counts = tables[static_cast<std::size_t>(task)];
        for (std::size_t i = static_cast<std::size_t>(task); i < batch.size(); i += static_cast<std::size_t>(tasks))
          splitter(batch[i], [&](std::string_view word) { ++counts[std::string(word)]; });
      }
    });
  }
  for (std::size_t i = 1; i < tables.size(); ++i) {
    for (const auto& [word, count] : tables[i]) tables[0][word] += count;
  }
  std::vector<WordCount> out;
  out.reserve(tables[0].size());
  for (const auto& [word, count] : tables[0]) out.push_back({word, count});
  std::sort(out.begin(), out.end(), [](const WordCount& a, const WordCount& b) { return a.word < b.word; });
  return out;
}

}  // namespace

const std::vector<TokenizerKind>& tokenizer_kinds() {
  static const std::vector<TokenizerKind> list = {
      {"byte-bpe", "byte-level BPE over GPT-2's words: any bytes come back as they were"},
      {"bpe", "BPE over words that begin with a blank; unknown characters by their bytes (LLaMA-like)"},
      {"wordpiece", "BERT: lower case, no accents, ideographs and punctuation stand alone"},
      {"wordpiece-cased", "BERT: capitals and accents kept"},
      {"unigram", "unigram language model over NFKC text (T5-, XLM-R-like)"},
      {"word-level", "the most frequent words and punctuation marks; others are unknown"},
  };
  return list;
}

TokenizerPtr train_tokenizer(const std::function<bool(std::string& document)>& documents, const TokenizerTrainOptions& options) {
  if (options.kind == "byte-bpe") {
    BpeTrainOptions bpe;
    bpe.vocab_size = options.vocab_size;
    if (!options.specials.empty()) bpe.specials = options.specials;
    bpe.progress = options.progress;
    return train_byte_bpe(documents, bpe);
  }
  const auto found = std::find_if(presets().begin(), presets().end(), [&](const Preset& p) { return p.kind == options.kind; });
  if (found == presets().end()) {
    std::string names;
    for (const TokenizerKind& kind : tokenizer_kinds()) names += (names.empty() ? "" : ", ") + std::string(kind.name);
    fail("there is no tokenizer kind '{}'; known are {}", options.kind, names);
  }
  ModelTrainOptions train;
  train.vocab_size = options.vocab_size;
  train.specials = found->specials;
  for (const std::string& special : options.specials) {
    if (std::find(train.specials.begin(), train.specials.end(), special) == train.specials.end()) train.specials.push_back(special);
  }
  train.unknown = found->unknown;
  train.prefix = found->prefix;
  train.byte_fallback = found->byte_fallback;
  train.min_count = found->min_count;
  train.progress = options.progress;
  const std::string plain = fmt::format("{{{}}}", found->parts);
  const TokenModelPtr model = found->train(count_words(documents, make_word_splitter(plain)), train);
  std::string added;
  for (const std::string& special : train.specials) {
    const TokenId id = model->id(special);
    check(id >= 0, "a special token is missing from the trained vocabulary");
    added += fmt::format(R"({}{{"id": {}, "content": {}, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}})",
                         added.empty() ? "" : ", ", id, json_string(special));
  }
  return make_pipeline(model, fmt::format("{{\"added_tokens\": [{}], \"post_processor\": {}, {}}}", added, template_json(*found, *model), found->parts));
}

}  // namespace rhetor
