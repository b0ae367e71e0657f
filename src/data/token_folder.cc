#include "data/token_folder.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/rng.h"
#include "data/batches.h"
#include "data/encode_documents.h"
#include "text/token_roles.h"

namespace rhetor {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr std::string_view kList = "tokens.json";
constexpr std::size_t kBatchBytes = 4 << 20;          // of text, encoded in parallel at a time
constexpr std::uint64_t kValidationStream = 0x76616c6964;
constexpr int kVersion = 1;

// The shards of one part, one after the other.
class Part {
 public:
  Part(fs::path folder, std::string name, int token_bytes, std::uint64_t tokenizer_hash, std::int64_t shard_tokens)
      : folder_(std::move(folder)),
        name_(std::move(name)),
        token_bytes_(token_bytes),
        tokenizer_hash_(tokenizer_hash),
        shard_tokens_(shard_tokens) {}

  void document(std::span<const TokenId> ids) {
    if (!writer_) writer_.emplace(folder_ / fmt::format("{}-{:05}.tokens", name_, count_++), token_bytes_, tokenizer_hash_);
    writer_->document(ids);
    if (writer_->tokens() >= shard_tokens_) finish();
  }
  void finish() {
    if (writer_) writer_->finish();
    writer_.reset();
  }
  ordered_json list() const {
    ordered_json out = ordered_json::array();
    for (int i = 0; i < count_; ++i) {
      const std::string file = fmt::format("{}-{:05}.tokens", name_, i);
      const auto shard = TokenShard::open(folder_ / file);
      out.push_back({{"file", file},
                     {"tokens", shard->tokens()},
                     {"documents", shard->documents()},
                     {"checksum", fmt::format("{:016x}", shard->checksum())}});
    }
    return out;
  }

 private:
  fs::path folder_;
  std::string name_;
  int token_bytes_;
  std::uint64_t tokenizer_hash_;
  std::int64_t shard_tokens_;
  int count_ = 0;
  std::optional<TokenShardWriter> writer_;
};

// A folder under a temporary name, removed unless it is kept.
class Draft {
 public:
  explicit Draft(fs::path folder) : folder_(std::move(folder)), draft_(temporary_name(folder_)) {
    std::error_code error;
    if (fs::exists(folder_, error) && !(fs::is_directory(folder_, error) && fs::is_empty(folder_, error)))
      fail("'{}' exists already; remove it or choose another output folder", folder_.string());
    if (folder_.has_parent_path()) fs::create_directories(folder_.parent_path(), error);
    // What a killed run has left goes first.
    remove_stale_temporaries(folder_.has_parent_path() ? folder_.parent_path() : fs::path("."));
    if (!fs::create_directory(draft_, error))
      fail(ErrorKind::io, "cannot create the folder '{}': {}", draft_.string(), error.message());
  }
  ~Draft() {
    std::error_code ignored;
    if (!draft_.empty()) fs::remove_all(draft_, ignored);
  }
  Draft(const Draft&) = delete;
  Draft& operator=(const Draft&) = delete;
  const fs::path& path() const { return draft_; }
  void keep() {
    flush_folder(draft_);
    std::error_code error;
    fs::rename(draft_, folder_, error);
    if (error) fail(ErrorKind::io, "cannot rename '{}' to '{}': {}", draft_.string(), folder_.string(), error.message());
    draft_.clear();
    flush_folder(folder_.has_parent_path() ? folder_.parent_path() : fs::path("."));
  }

 private:
  fs::path folder_, draft_;
};

std::vector<std::shared_ptr<const TokenShard>> open_shards(const fs::path& folder, const ordered_json& list,
                                                           std::uint64_t tokenizer_hash) {
  std::vector<std::shared_ptr<const TokenShard>> out;
  for (const auto& entry : list) {
    const std::string file = entry.at("file").get<std::string>();
    if (file.empty() || file.find('/') != std::string::npos)
      fail("'{}' lists a shard with the name '{}'; a plain file name was expected", (folder / kList).string(), file);
    auto shard = TokenShard::open(folder / file);
    if (shard->tokens() != entry.at("tokens").get<std::int64_t>() ||
        fmt::format("{:016x}", shard->checksum()) != entry.at("checksum").get<std::string>())
      fail("'{}' is not the shard that {} lists under that name; make the token folder again with `rhetor data tokenize`",
           shard->path().string(), kList);
    if (shard->tokenizer_hash() != tokenizer_hash)
      fail(
          "'{}' was made with another tokenizer than the tokenizer.json beside it; make the token folder again with `rhetor data "
          "tokenize`",
          shard->path().string());
    out.push_back(std::move(shard));
  }
  return out;
}

}  // namespace

TokenizeProgress tokenize_to_folder(const std::vector<fs::path>& files, const Tokenizer& tokenizer, const fs::path& folder,
                                    const TokenizeOptions& options,
                                    const std::function<void(const TokenizeProgress&)>& progress) {
  if (!(options.validation >= 0 && options.validation < 1))
    fail("the validation share is {}, expected 0 or more and below 1", options.validation);
  CorpusOptions as_trained = options.corpus;
  as_trained.converse(tokenizer, options.corpus.chat_template);
  Corpus corpus(files, as_trained);
  const fs::path target = fs::path(folder).lexically_normal();
  Draft draft(target.has_filename() ? target : target.parent_path());
  const std::string json = tokenizer.to_json();
  const std::uint64_t hash = hash64(json);
  const int token_bytes = tokenizer.vocab_size() <= 0x10000 ? 2 : 4;
  Part train(draft.path(), "train", token_bytes, hash, options.shard_tokens),
      validation(draft.path(), "validation", token_bytes, hash, options.shard_tokens);
  const TokenId end = token_for(tokenizer, TokenRole::end_of_text);
  TokenizeProgress done;
  // One thread reads and unpacks while the others encode; an empty batch is the end.
  Prefetcher<std::vector<std::string>> batches(
      [&](std::uint64_t) {
        std::vector<std::string> documents;
        std::string document;
        for (std::size_t bytes = 0; bytes < kBatchBytes && corpus.next(document);) {
          bytes += document.size();
          documents.push_back(std::move(document));
        }
        return documents;
      },
      0, 2);
  for (std::vector<std::string> documents; !(documents = batches.next()).empty();) {
    for (auto& ids : encode_documents(documents, tokenizer)) {
      if (end >= 0) ids.push_back(end);
      const bool held =
          to_uniform(random_u32(0, kValidationStream, static_cast<std::uint64_t>(done.documents))) < options.validation;
      (held ? validation : train).document(ids);
      done.tokens += static_cast<std::int64_t>(ids.size());
      ++done.documents;
    }
    for (const auto& text : documents) done.bytes += text.size();
    if (progress) progress(done);
  }
  train.finish();
  validation.finish();
  write_file_atomic(draft.path() / "tokenizer.json", json);
  if (options.corpus.chat_template) write_file_atomic(draft.path() / kChatTemplateFile, options.corpus.chat_template->to_json());
  const ordered_json list = {{"format", "rhetor-tokens"},
                             {"version", kVersion},
                             {"vocab", tokenizer.vocab_size()},
                             {"token_bytes", token_bytes},
                             {"end_of_text", end},
                             {"source_bytes", done.bytes},
                             {"train", train.list()},
                             {"validation", validation.list()}};
  write_file_atomic(draft.path() / kList, list.dump(1) + "\n");
  draft.keep();
  return done;
}

bool is_token_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path / kList, ignored);
}

TokenFolder TokenFolder::open(const fs::path& path) {
  TokenFolder out;
  out.path = path;
  const fs::path file = path / kList;
  if (!is_token_folder(path))
    fail(ErrorKind::not_found, "'{}' is no token folder: it has no {}; make one with `rhetor data tokenize`", path.string(),
         kList);
  const std::string text = read_file(file, 1 << 28), json = read_file(path / "tokenizer.json", 1 << 28);
  out.tokenizer = tokenizer_from_json(json, (path / "tokenizer.json").string());
  out.chat_template = load_chat_template(path);
  out.hash = hash64(text, hash64(json));
  try {
    const ordered_json list = ordered_json::parse(text);
    const int version = list.at("version").get<int>();
    if (list.at("format") != "rhetor-tokens" || version != kVersion)
      fail("'{}' is of version {}, this program reads version {}; make the token folder again with `rhetor data tokenize`",
           file.string(), version, kVersion);
    out.source_bytes = list.at("source_bytes").get<std::uint64_t>();
    out.train_shards = open_shards(path, list.at("train"), hash64(json));
    out.validation_shards = open_shards(path, list.at("validation"), hash64(json));
  } catch (const nlohmann::json::exception&) {
    fail("'{}' is not the list of a token folder; make the folder again with `rhetor data tokenize`", file.string());
  }
  out.train = TokenView(out.train_shards, out.tokenizer->vocab_size());
  out.validation = TokenView(out.validation_shards, out.tokenizer->vocab_size());
  return out;
}

void TokenFolder::verify() const {
  std::vector<const TokenShard*> all;
  for (const auto* part : {&train_shards, &validation_shards})
    for (const auto& shard : *part) all.push_back(shard.get());
  run_checked(static_cast<std::int64_t>(all.size()), [&](std::int64_t i) { all[static_cast<std::size_t>(i)]->verify(); });
}

}  // namespace rhetor
