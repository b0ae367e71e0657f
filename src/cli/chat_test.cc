// `rhetor generate --chat` and `rhetor chat` speak as the model's own template has it.
#include <gtest/gtest.h>

#include <cstdio>

#include "base/file.h"
#include "cli/commands.h"
#include "generate/test_models.h"

namespace rhetor {
namespace {

std::string printed(int (*command)(int, const char* const*), std::vector<const char*> words) {
  ::testing::internal::CaptureStdout();
  const int status = command(static_cast<int>(words.size()), words.data());
  std::fflush(stdout);
  EXPECT_EQ(status, 0);
  return ::testing::internal::GetCapturedStdout();
}

TEST(Chat, TheTemplateOfTheModelIsUsed) {
  testing::ScratchFolder scratch;
  const std::string folder = (scratch.path() / "m").string();
  save_model(folder, *testing::toy_model());
  write_file_atomic(scratch.path() / "m/chat_template.json",
                    R"({"system": ["S", "|"], "user": ["U", "|"], "assistant": ["A", "|"], "open": "A"})");
  const std::string expected =
      printed(cmd_generate, {"generate", folder.c_str(), "Usea|A", "--quiet", "--temperature", "0", "--max-tokens", "9"});
  EXPECT_GT(expected.size(), 2u);
  EXPECT_EQ(
      printed(cmd_generate, {"generate", folder.c_str(), "sea", "--chat", "--quiet", "--temperature", "0", "--max-tokens", "9"}),
      expected);
  const auto line = scratch.path() / "line.txt";
  write_file_atomic(line, "sea\n");
  ASSERT_NE(std::freopen(line.c_str(), "r", stdin), nullptr);
  EXPECT_EQ(printed(cmd_chat, {"chat", folder.c_str(), "--temperature", "0", "--max-tokens", "9"}), expected);
}

}  // namespace
}  // namespace rhetor
