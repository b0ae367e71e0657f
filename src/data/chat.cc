#include "base/error.h"
#include "data/batches.h"

namespace rhetor {

std::string neutralised(std::string_view content) {
  constexpr std::size_t kLongestName = 512;
  std::string out;
  for (std::size_t at = 0; at < content.size();) {
    const std::size_t open = content.find("<|", at);
    if (open == std::string_view::npos) {
      out += content.substr(at);
      break;
    }
    out += content.substr(at, open - at);
    std::size_t end = open + 2;
    while (end < content.size() && end - open < kLongestName && std::string_view("|<> \t\r\n").find(content[end]) == std::string_view::npos)
      ++end;
    out += end > open + 2 && content.substr(end, 2) == "|>" ? "< |" : "<|";
    at = open + 2;
  }
  return out;
}

std::string render_chat(const std::vector<ChatMessage>& messages, bool open_answer) {
  if (messages.empty()) fail("the conversation has no messages; give at least one with the role \"user\"");
  std::string out;
  for (const auto& message : messages) {
    if (message.role != "system" && message.role != "user" && message.role != "assistant")
      fail("the role '{}' is unknown; a message is of the role system, user or assistant", message.role.substr(0, 40));
    out += "<|" + message.role + "|>";
    out += neutralised(message.content) + "<|end|>";
  }
  if (open_answer) out += "<|assistant|>";
  return out;
}

}  // namespace rhetor
