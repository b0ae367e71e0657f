#include "data/token_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/file.h"
#include "base/rng.h"
#include "base/test_util.h"

namespace rhetor {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::error_of;

class TokenFolderTest : public ::testing::Test {
 protected:
  static TokenizerPtr tokenizer() {
    static const TokenizerPtr instance = train_byte_bpe(
        [i = 0](std::string& d) mutable { return d = "the boats of the harbour are home", i++ < 3; }, {.vocab_size = 300});
    return instance;
  }
  // 60 documents, the i-th of i + 1 lines.
  fs::path text() {
    std::string all;
    for (int d = 0; d < 60; ++d) {
      for (int i = 0; i <= d; ++i) all += "document " + std::to_string(d) + " line " + std::to_string(i) + "\n";
      all += "<|endoftext|>\n";
    }
    write_file_atomic(base_ / "text.txt", all);
    return base_ / "text.txt";
  }
  TokenFolder make(const TokenizeOptions& options = {.validation = 0.2, .shard_tokens = 3000}) {
    tokenize_to_folder({text()}, *tokenizer(), base_ / "tokens", options);
    return TokenFolder::open(base_ / "tokens");
  }
  // The file with one byte changed.
  static void damage(const fs::path& path, std::size_t at) {
    std::string bytes = read_file(path);
    bytes[at] = static_cast<char>(bytes[at] ^ 0x40);
    write_file_atomic(path, bytes);
  }
  testing::ScratchFolder scratch_;
  const fs::path base_ = scratch_.path();
};

TEST_F(TokenFolderTest, HoldsEveryDocumentOnce) {
  const TokenFolder folder = make();
  EXPECT_GT(folder.train_shards.size(), 2u);
  EXPECT_GT(folder.validation.documents(), 2);
  EXPECT_EQ(folder.train.documents() + folder.validation.documents(), 60);
  EXPECT_EQ(folder.train_shards[0]->token_bytes(), 2);
  const TokenId end = tokenizer()->special("<|endoftext|>");
  std::vector<std::string> texts;
  for (const TokenView* view : {&folder.train, &folder.validation}) {
    for (std::int64_t d = 0; d < view->documents(); ++d) {
      std::vector<TokenId> ids(static_cast<std::size_t>(view->end_of(d) - view->begin_of(d)));
      view->copy(view->begin_of(d), static_cast<std::int64_t>(ids.size()), ids.data());
      EXPECT_EQ(ids.back(), end);
      ids.pop_back();
      texts.push_back(tokenizer()->decode(ids));
      EXPECT_EQ(view->document_at(view->begin_of(d)), d);
      EXPECT_EQ(view->document_at(view->end_of(d) - 1), d);
    }
  }
  std::sort(texts.begin(), texts.end());
  EXPECT_EQ(std::unique(texts.begin(), texts.end()), texts.end());
  EXPECT_EQ(texts.size(), 60u);
  EXPECT_THAT(texts[0], HasSubstr("document 0 line 0"));
  folder.verify();
  EXPECT_EQ(TokenFolder::open(base_ / "tokens").hash, folder.hash);
}

TEST_F(TokenFolderTest, AViewIsARingOverShards) {
  const TokenFolder folder = make();
  const TokenView& view = folder.train;
  std::vector<TokenId> all(static_cast<std::size_t>(view.tokens()));
  view.copy(0, view.tokens(), all.data());
  Rng rng(1);
  for (int i = 0; i < 200; ++i) {
    const auto at = static_cast<std::int64_t>(rng.below(all.size()));
    std::vector<TokenId> got(1 + rng.below(2 * all.size()));
    view.copy(at, static_cast<std::int64_t>(got.size()), got.data());
    for (std::size_t k = 0; k < got.size(); k += 1 + got.size() / 7)
      ASSERT_EQ(got[k], all[(static_cast<std::size_t>(at) + k) % all.size()]);
  }
}

TEST_F(TokenFolderTest, RemembersHowConversationsWereRendered) {
  write_file_atomic(base_ / "chats.jsonl", R"({"messages": [{"role": "user", "content": "the boats <|end|>"}]})");
  const auto text_of = [](const TokenFolder& folder) {
    std::vector<TokenId> ids(static_cast<std::size_t>(folder.train.tokens()));
    folder.train.copy(0, folder.train.tokens(), ids.data());
    return tokenizer()->decode(ids, true);
  };
  TokenizeOptions options{.validation = 0};
  tokenize_to_folder({base_ / "chats.jsonl"}, *tokenizer(), base_ / "usual", options);
  EXPECT_EQ(TokenFolder::open(base_ / "usual").chat_template, nullptr);
  EXPECT_EQ(text_of(TokenFolder::open(base_ / "usual")), "<|user|>the boats < |end|><|end|><|endoftext|>");
  options.corpus.chat_template = std::make_shared<const ChatTemplate>(chat_template("gemma"));
  tokenize_to_folder({base_ / "chats.jsonl"}, *tokenizer(), base_ / "gemma", options);
  const TokenFolder folder = TokenFolder::open(base_ / "gemma");
  ASSERT_TRUE(folder.chat_template);
  EXPECT_EQ(folder.chat_template->name, "gemma");
  EXPECT_EQ(text_of(folder), "<bos><start_of_turn>user\nthe boats < |end|><end_of_turn>\n<|endoftext|>");
}

TEST_F(TokenFolderTest, WideVocabulariesTakeFourBytes) {
  TokenShardWriter writer(base_ / "wide.tokens", 4, 7);
  writer.document(std::vector<TokenId>{70000, 3});
  writer.document(std::vector<TokenId>{});
  writer.finish();
  const auto shard = TokenShard::open(base_ / "wide.tokens");
  shard->verify();
  EXPECT_EQ(shard->documents(), 2);
  EXPECT_EQ(TokenView({shard}, 70001)[0], 70000);
  EXPECT_THAT(error_of([&] { TokenView({shard}, 70000).copy(0, 1, std::vector<TokenId>(1).data()); }),
              HasSubstr("token id 70000"));
  TokenShardWriter narrow(base_ / "narrow.tokens", 2, 7);
  EXPECT_THAT(error_of([&] { narrow.document(std::vector<TokenId>{70000}); }), HasSubstr("does not fit"));
}

TEST_F(TokenFolderTest, AnyDamageIsOneSentence) {
  const fs::path path = make().train_shards[0]->path();
  const std::string good = read_file(path);
  Rng rng(2);
  for (int trial = 0; trial < 300; ++trial) {
    std::string bytes = good;
    if (trial % 3 == 0) bytes.resize(rng.below(bytes.size()));
    else bytes[trial % 3 == 1 ? rng.below(64) : rng.below(bytes.size())] ^= static_cast<char>(1 << rng.below(8));
    write_file_atomic(path, bytes);
    const std::string what = error_of([&] { TokenFolder::open(base_ / "tokens").verify(); });
    ASSERT_THAT(what, HasSubstr("train-00000.tokens")) << trial;
    ASSERT_EQ(what.find('\n'), std::string::npos);
  }
  write_file_atomic(path, good);
  EXPECT_NO_THROW(TokenFolder::open(base_ / "tokens").verify());
}

TEST_F(TokenFolderTest, TheListAndTheTokenizerMustBelong) {
  make();
  const fs::path folder = base_ / "tokens";
  const std::string list = read_file(folder / "tokens.json");
  for (const std::string& bad :
       {std::string("{"), std::string("[]"), std::string("{\"format\": 3}"), list.substr(0, list.size() / 2)}) {
    write_file_atomic(folder / "tokens.json", bad);
    EXPECT_THAT(error_of([&] { TokenFolder::open(folder); }), HasSubstr("tokens.json"));
  }
  write_file_atomic(folder / "tokens.json", list);
  fs::rename(folder / "train-00001.tokens", folder / "train-00000.tokens");
  EXPECT_THAT(error_of([&] { TokenFolder::open(folder); }), HasSubstr("is not the shard"));
  fs::remove_all(folder);
  make();
  write_file_atomic(folder / "tokenizer.json",
                    train_byte_bpe([](std::string&) { return false; }, {.vocab_size = 265})->to_json());
  EXPECT_THAT(error_of([&] { TokenFolder::open(folder); }), HasSubstr("another tokenizer"));
}

TEST_F(TokenFolderTest, NothingUnfinishedHasTheName) {
  text();
  write_file_atomic(base_ / "damaged.txt",
                    std::string("fine\n<|endoftext|>\n") + std::string(3 << 20, 'x') + std::string(1, '\0'));
  EXPECT_THAT(error_of([&] {
                tokenize_to_folder({base_ / "text.txt", base_ / "damaged.txt"}, *tokenizer(), base_ / "tokens");
              }),
              HasSubstr("damaged.txt"));
  EXPECT_FALSE(fs::exists(base_ / "tokens"));
  for (const auto& entry : fs::directory_iterator(base_))
    EXPECT_EQ(entry.path().filename().string().find(".tmp."), std::string::npos);
  fs::create_directory(base_ / "full");
  write_file_atomic(base_ / "full/mine.txt", "x");
  EXPECT_THAT(error_of([&] { tokenize_to_folder({base_ / "text.txt"}, *tokenizer(), base_ / "full"); }),
              HasSubstr("exists already"));
  EXPECT_THAT(error_of([&] { TokenFolder::open(base_ / "full"); }), HasSubstr("no token folder"));
  // What a killed run left is removed by the next.
  fs::create_directory(base_ / "tokens.tmp.4194303.0");
  EXPECT_NO_THROW(tokenize_to_folder({base_ / "text.txt"}, *tokenizer(), base_ / "tokens/"));
  EXPECT_FALSE(fs::exists(base_ / "tokens.tmp.4194303.0"));
  EXPECT_TRUE(is_token_folder(base_ / "tokens"));
}

}  // namespace
}  // namespace rhetor
