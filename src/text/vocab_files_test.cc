#include <gmock/gmock.h>

#include <filesystem>

#include "base/error.h"
#include "base/file.h"
#include "text/token_model.h"

namespace rhetor {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class VocabFiles : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) / "rhetor_vocab_files";
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path write(const char* name, std::string_view content) {
    write_file_atomic(folder_ / name, content);
    return folder_ / name;
  }
  std::filesystem::path folder_;
};

TEST_F(VocabFiles, Bert) {
  const auto path = write("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nboat\n##s\n\u6d77\r\ncafe\n");
  const auto t = load_vocab_txt(path);
  EXPECT_THAT(t->encode("Boats \u6d77\u6d77 CAF\u00c9 [MASK]"), testing::Contains(7));
  EXPECT_THAT(t->encode("Boats \u6d77\u6d77 CAF\u00c9"), ElementsAre(5, 6, 7, 7, 8));
  EXPECT_THAT(t->encode_template("boat").ids, ElementsAre(2, 5, 3));
  const std::string_view second = "boats";
  EXPECT_THAT(t->encode_template("boat", &second).segments, ElementsAre(0, 0, 0, 1, 1, 1));
  EXPECT_THAT(load_vocab_txt(path, false)->encode("Boat"), ElementsAre(1));
  EXPECT_EQ(tokenizer_from_json(t->to_json())->encode("boats"), t->encode("boats"));
}

TEST_F(VocabFiles, Gpt2) {
  // GPT-2's byte alphabet: printable characters stand for themselves, the other bytes follow from U+0100.
  std::string vocab = "{";
  int other = 0;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    const int code = printable ? byte : 256 + other++;
    std::string text = code == '"' || code == '\\' ? "\\" : "";
    if (code < 128) {
      text += static_cast<char>(code);
    } else {
      text += static_cast<char>(0xC0 | code >> 6);
      text += static_cast<char>(0x80 | (code & 63));
    }
    vocab += "\"" + text + "\": " + std::to_string(byte) + ", ";
  }
  const auto json = write("vocab.json", vocab + "\"ab\": 256, \"\u0120ab\": 257, \"<|endoftext|>\": 258}");
  const auto merges = write("merges.txt", "#version: 0.2\na b\n\u0120 ab\n");
  const auto t = load_vocab_merges(json, merges);
  EXPECT_THAT(t->encode("ab ab"), ElementsAre(256, 257));
  EXPECT_EQ(t->special("<|endoftext|>"), 258);
  EXPECT_EQ(t->decode(t->encode("\u6d77 \xff")), "\u6d77 \xff");
  EXPECT_THROW(load_vocab_merges(json, write("bad.txt", "a b c\n")), Error);
  EXPECT_THROW(load_vocab_merges(json, write("bad.txt", "a z\n")), Error);
  EXPECT_THROW(load_vocab_merges(write("bad.json", "[1]"), merges), Error);
}

TEST_F(VocabFiles, DamageIsRefusedWithASentence) {
  for (const std::string& content : {std::string(), std::string("a\nb\n"), std::string("[UNK]\n\xff\n")}) {
    const auto path = write("vocab.txt", content);
    try {
      load_vocab_txt(path);
      ADD_FAILURE() << content;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("vocab.txt"));
    }
  }
  EXPECT_THROW(load_vocab_txt(folder_ / "missing"), Error);
  EXPECT_THROW(load_sentencepiece(folder_ / "missing"), Error);
}

}  // namespace
}  // namespace rhetor
