// What a run reads: the same whatever the number of workers and wherever it begins, in the proportions asked for.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>

#include "base/file.h"
#include "base/test_util.h"
#include "data/token_folder.h"
#include "train/run_data.h"

namespace rhetor {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::error_of;

class RunRowsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    tokenizer_ = train_byte_bpe([i = 0](std::string& d) mutable { return d = "the boats of the harbour are home", i++ < 3; },
                                {.vocab_size = 300});
    tokenizer_->save(base_ / "tokenizer.json");
    for (const char letter : {'a', 'b', 'c'}) {
      std::string all;
      for (int d = 0; d < 40; ++d) {
        for (int i = 0; i < 10 + 7 * d % 45; ++i) all += {letter, static_cast<char>('0' + i * d % 10)};
        all += "\n<|endoftext|>\n";
      }
      write_file_atomic(file(letter), all);
    }
  }
  std::string file(char letter) const { return (base_ / (std::string(1, letter) + ".txt")).string(); }

  Recipe recipe(const std::string& changes = "") const {
    Recipe out = Recipe::parse("[data]\nfiles = [\"x\", \"y\", \"z\"]\n" + changes, "test");
    out.files = {file('a'), file('b'), file('c')};
    out.tokenizer = (base_ / "tokenizer.json").string();
    return out;
  }
  RunData load(const Recipe& r) const {
    return load_run_data(r, nullptr, [](const std::string&) {});
  }
  static std::string bytes(const NamedTensors& batch) {
    std::string out;
    for (const auto& [name, tensor] : batch) out += name + std::string(static_cast<const char*>(tensor.raw()), tensor.bytes());
    return out;
  }
  testing::ScratchFolder scratch_;
  const fs::path base_ = scratch_.path();
  TokenizerPtr tokenizer_;
};

TEST_F(RunRowsTest, AnyWorkersAndAnyBeginningGiveTheSameBatches) {
  struct Case { const char* keys; bool bert; };
  for (const Case& one : {Case{"weights = [5, 2.5, 1]", false}, Case{"packing = \"whole\"", false},
                          Case{"weights = [1, 1, 2]\npacking = \"single\"", false},
                          Case{"weights = [1, 1, 1]\nmasking = \"words\"", true}, Case{"pairs = \"none\"", true}}) {
    Recipe r = recipe(one.keys);
    const RunData data = load(r);
    std::vector<std::string> expected;
    {
      BatchStream stream(data, r, one.bert ? Objective::masked : Objective::next, 3, 16, 0);
      for (int i = 0; i < 60; ++i) expected.push_back(bytes(stream.next()));
    }
    for (const std::int64_t workers : {1, 4}) {
      r.workers = workers;
      for (const std::uint64_t first : {0u, 1u, 17u, 42u}) {
        BatchStream stream(data, r, one.bert ? Objective::masked : Objective::next, 3, 16, first);
        for (std::uint64_t i = first; i < expected.size(); ++i)
          ASSERT_EQ(bytes(stream.next()), expected[i]) << one.keys << " " << workers << " " << first;
      }
    }
    EXPECT_NE(expected[0], expected[1]);
  }
}

TEST_F(RunRowsTest, ABlendHoldsItsProportions) {
  const Recipe r = recipe("weights = [0.7, 0.2, 0.1]");
  const RunData data = load(r);
  ASSERT_EQ(data.sources.size(), 3u);
  BatchStream stream(data, r, Objective::next, 4, 16, 0);
  std::array<int, 3> rows{};
  const TokenId letters[] = {tokenizer_->encode("a")[0], tokenizer_->encode("b")[0], tokenizer_->encode("c")[0]};
  for (int batch = 1; batch <= 50; ++batch) {
    const NamedTensors inputs = stream.next();
    const auto tokens = inputs[0].second.data<std::int32_t>();
    for (std::size_t row = 0; row < 4; ++row)
      for (std::size_t k = 0; k < 3; ++k)
        rows[k] += std::count(tokens.begin() + static_cast<std::ptrdiff_t>(row * 16),
                              tokens.begin() + static_cast<std::ptrdiff_t>(row * 16 + 16), letters[k]) > 3;
    for (std::size_t k = 0; k < 3; ++k) EXPECT_LT(std::abs(rows[k] - r.weights[k] * batch * 4), 1.0);
  }
}

TEST_F(RunRowsTest, AFolderOfTokensGivesWhatItsTextGives) {
  Recipe r = recipe();
  r.validation = 0;
  tokenize_to_folder({file('a'), file('b'), file('c')}, *tokenizer_, base_ / "tokens", {.validation = 0});
  const RunData text = load(r);
  Recipe mapped = r;
  mapped.files = {(base_ / "tokens").string()};
  mapped.tokenizer = "";
  const RunData tokens = load(mapped);
  EXPECT_EQ(tokens.tokenizer->to_json(), tokenizer_->to_json());
  for (const bool bert : {false, true}) {
    BatchStream a(text, r, bert ? Objective::masked : Objective::next, 2, 16, 5),
        b(tokens, mapped, bert ? Objective::masked : Objective::next, 2, 16, 5);
    for (int i = 0; i < 20; ++i) ASSERT_EQ(bytes(a.next()), bytes(b.next()));
  }
  EXPECT_NE(text.hash, tokens.hash);
  EXPECT_EQ(load(mapped).hash, tokens.hash);
  // Text and folders blend; another tokenizer does not.
  mapped.files.push_back(file('a'));
  EXPECT_EQ(load(mapped).sources.size(), 2u);
  train_byte_bpe([](std::string&) { return false; }, {.vocab_size = 265})->save(base_ / "other.json");
  mapped.tokenizer = (base_ / "other.json").string();
  EXPECT_THAT(error_of([&] { load(mapped); }), HasSubstr("another tokenizer"));
  write_file_atomic(base_ / "tokens/train-00000.tokens", "RHTOKENS");
  mapped.tokenizer = "";
  EXPECT_THAT(error_of([&] { load(mapped); }), HasSubstr("damaged"));
}

TEST_F(RunRowsTest, KeysThatDoNotGoTogetherAreNamed) {
  EXPECT_THAT(error_of([&] { Recipe::parse("[data]\nfiles = [\"x\", \"y\"]\nweights = [1]", "r"); }),
              HasSubstr("data.weights has 1 numbers and data.files 2"));
  EXPECT_THAT(error_of([&] { Recipe::parse("[data]\nfiles = [\"x\"]\nweights = [0]", "r"); }), HasSubstr("data.weights must be"));
  EXPECT_THAT(error_of([&] { Recipe::parse("[data]\nfiles = [\"x\"]\npacking = \"tight\"", "r"); }),
              HasSubstr("stream, whole, single"));
  const RunData data = load(recipe());
  EXPECT_THAT(error_of([&] { BatchStream(data, recipe("packing = \"whole\""), Objective::masked, 2, 16, 0); }),
              HasSubstr("data.packing"));
  EXPECT_THAT(error_of([&] { BatchStream(data, recipe("masking = \"words\""), Objective::next, 2, 16, 0); }),
              HasSubstr("data.masking"));
  EXPECT_THAT(error_of([&] { BatchStream(data, recipe("pairs = \"none\""), Objective::next, 2, 16, 0); }),
              HasSubstr("data.pairs"));
}

}  // namespace
}  // namespace rhetor
