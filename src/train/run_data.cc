#include "train/run_data.h"

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "data/prefetch.h"
#include "data/token_folder.h"
#include "text/make_tokenizer.h"

namespace rhetor {
namespace {

std::uint64_t hash_tokens(const std::vector<TokenId>& tokens, std::uint64_t seed) {
  return hash64(std::as_bytes(std::span(tokens)), seed);
}

std::string counted(double number) {
  return number >= 1e9   ? fmt::format("{:.2f} G", number / 1e9)
         : number >= 1e6 ? fmt::format("{:.1f} M", number / 1e6)
                         : fmt::format("{:.0f}", number);
}

// What a source is made from: text files that go together, or one token folder.
struct Origin {
  std::vector<std::filesystem::path> files;
  bool folder = false;
  double weight = 0;   // 0: by size
};

std::vector<Origin> origins_of(const Recipe& recipe) {
  std::vector<Origin> out;
  for (std::size_t i = 0; i < recipe.files.size(); ++i) {
    const bool folder = is_token_folder(recipe.files[i]);
    // Without weights, text files are one text.
    if (recipe.weights.empty() && !folder && !out.empty() && !out.back().folder) out.back().files.emplace_back(recipe.files[i]);
    else out.push_back({{recipe.files[i]}, folder, recipe.weights.empty() ? 0 : recipe.weights[i]});
  }
  return out;
}

// Opens every token folder and checks it. Their tokenizer is the run's: they must agree.
std::vector<TokenFolder> open_folders(const Recipe& recipe, const std::vector<Origin>& origins, RunData& data) {
  std::vector<TokenFolder> folders;
  for (const Origin& origin : origins) {
    if (!origin.folder) continue;
    folders.push_back(TokenFolder::open(origin.files[0]));
    folders.back().verify();
    const std::string json = folders.back().tokenizer->to_json();
    if (!data.chat_template) data.chat_template = folders.back().chat_template;
    if (!data.tokenizer) data.tokenizer = folders.back().tokenizer;
    else if (data.tokenizer->to_json() != json)
      fail("'{}' was made with another tokenizer than {}; tokenize all of data.files with one", origin.files[0].string(),
           recipe.tokenizer.empty() ? "'" + folders[0].path.string() + "'" : "data.tokenizer '" + recipe.tokenizer + "'");
  }
  return folders;
}

}  // namespace

std::int64_t RunData::train_tokens() const {
  std::int64_t sum = 0;
  for (const RunSource& source : sources) sum += source.train.tokens();
  return sum;
}

RunData load_run_data(const Recipe& recipe, TokenizerPtr known, const std::function<void(const std::string&)>& note) {
  CorpusOptions options;
  options.text_field = recipe.text_field;
  options.separator = recipe.separator;
  const std::vector<Origin> origins = origins_of(recipe);
  RunData data;
  if (!recipe.tokenizer.empty()) {
    data.tokenizer = load_tokenizer(recipe.tokenizer);
    if (std::filesystem::is_directory(recipe.tokenizer)) data.chat_template = load_chat_template(recipe.tokenizer);
  }
  const std::vector<TokenFolder> folders = open_folders(recipe, origins, data);
  if (!data.tokenizer) data.tokenizer = std::move(known);
  if (!data.tokenizer) {
    Corpus corpus({recipe.files.begin(), recipe.files.end()}, options);
    TokenizerTrainOptions wanted;
    wanted.kind = recipe.tokenizer_kind;
    wanted.vocab_size = recipe.vocab;
    data.tokenizer = train_tokenizer([&](std::string& document) { return corpus.next(document); }, wanted);
    note(fmt::format("tokenizer: {} tokens ({}) trained on the text", data.tokenizer->vocab_size(), recipe.tokenizer_kind));
  }
  options.converse(*data.tokenizer, data.chat_template);
  data.hash = hash64(data.tokenizer->to_json());
  std::size_t folder = 0;
  for (const Origin& origin : origins) {
    RunSource source;
    source.name = origin.files[0].string();
    source.weight = origin.weight;
    if (origin.folder) {
      const TokenFolder& tokens = folders[folder++];
      source.train = tokens.train;
      source.validation = tokens.validation;
      data.hash = hash64(std::as_bytes(std::span(&tokens.hash, 1)), data.hash);
      note(fmt::format("tokens: {} training and {} validation tokens mapped from '{}'",
                       counted(static_cast<double>(tokens.train.tokens())),
                       counted(static_cast<double>(tokens.validation.tokens())), source.name));
    } else {
      Corpus corpus(origin.files, options);
      auto text = std::make_shared<TokenSet>(tokenize_corpus(corpus, *data.tokenizer, recipe.validation, recipe.seed));
      source.train = TokenView(text->train, text->train_documents);
      source.validation = TokenView(text->validation, text->validation_documents);
      data.hash = hash_tokens(text->validation, hash_tokens(text->train, data.hash));
      note(fmt::format("text: {} bytes, {} training and {} validation tokens", text->source_bytes, text->train.size(),
                       text->validation.size()));
      source.text = std::move(text);
    }
    if (source.weight == 0) source.weight = static_cast<double>(std::max<std::int64_t>(1, source.train.tokens()));
    data.sources.push_back(std::move(source));
  }
  if (data.sources.size() > 1) {
    double sum = 0;
    for (const RunSource& source : data.sources) sum += source.weight;
    for (const RunSource& source : data.sources) {
      note(fmt::format("blend: {:.2f} % from '{}', {} tokens", 100 * source.weight / sum, source.name,
                       counted(static_cast<double>(source.train.tokens()))));
      if (source.train.tokens() < 2)
        fail("'{}' has no training tokens; give more text or leave it out of data.files", source.name);
    }
  }
  return data;
}

void require_enough_text(const RunData& data, std::int64_t seq) {
  if (data.train_tokens() < seq + 1) {
    fail(
        "the training text has {} tokens, fewer than one sequence of {} (train.seq) and its last target; give more text or a "
        "shorter train.seq",
        data.train_tokens(), seq);
  }
}

BatchStream::BatchStream(const RunData& data, const Recipe& recipe, Objective objective, std::int64_t rows, std::int64_t seq,
                         std::uint64_t first) {
  require_enough_text(data, seq);
  rows_ = std::make_unique<RunRows>(data, recipe, objective, seq, RunRows::Part::train, recipe.seed);
  const std::int64_t parts = recipe.packing == "unpadded" ? recipe.accumulation : 1;
  rows_->set_tokens(unpadded_tokens(data, recipe, objective, rows / parts, seq));
  const auto workers = static_cast<int>(recipe.workers);
  batches_ = std::make_unique<Prefetcher<NamedTensors>>(
      [this_rows = rows_.get(), rows, parts](std::uint64_t i) { return this_rows->batch(rows, i, parts); }, first,
      std::max(4, 2 * workers), workers);
}

NamedTensors BatchStream::next() { return batches_->next(); }
double BatchStream::waited_seconds() const { return batches_->waited_seconds(); }

std::vector<NamedTensors> validation_batches(const RunData& data, const Recipe& recipe, Objective objective, std::int64_t rows,
                                             std::int64_t seq, std::int64_t count) {
  // Fixed, so that validation losses of runs with different seeds compare.
  constexpr std::uint64_t kValidationSeed = 20240229;
  std::vector<NamedTensors> out;
  RunRows validation(data, recipe, objective, seq, RunRows::Part::validation, kValidationSeed);
  if (validation.empty()) return out;
  validation.set_tokens(unpadded_tokens(data, recipe, objective, rows, seq));
  // Not more than the text holds: the same window twice tells nothing.
  count = std::min(count, std::max<std::int64_t>(1, validation.tokens() / (rows * seq)));
  for (std::int64_t i = 0; i < count; ++i) out.push_back(validation.batch(rows, static_cast<std::uint64_t>(i)));
  return out;
}

}  // namespace rhetor
