// The families of chat templates, and a conversation as text; chat_template_file.cc reads templates.
#include "data/chat_template.h"

#include <utility>

#include "base/error.h"

namespace rhetor {
namespace {

// As the families' own templates write them.
const std::vector<ChatTemplate>& families() {
  static const std::vector<ChatTemplate> list = {
      {.name = "rhetor",
       .system = {"<|system|>", "<|end|>"},
       .user = {"<|user|>", "<|end|>"},
       .assistant = {"<|assistant|>", "<|end|>"},
       .open = "<|assistant|>",
       .stop = {"<|end|>"}},
      {.name = "chatml",
       .system = {"<|im_start|>system\n", "<|im_end|>\n"},
       .user = {"<|im_start|>user\n", "<|im_end|>\n"},
       .assistant = {"<|im_start|>assistant\n", "<|im_end|>\n"},
       .open = "<|im_start|>assistant\n",
       .stop = {"<|im_end|>"}},
      {.name = "llama2",
       .system = {"<<SYS>>\n", "\n<</SYS>>\n\n"},
       .user = {"<s>[INST] ", " [/INST]"},
       .assistant = {" ", " </s>"},
       .stop = {"</s>"},
       .system_in_user = true,
       .trim = true},
      {.name = "llama3",
       .begin = "<|begin_of_text|>",
       .system = {"<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"},
       .user = {"<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"},
       .assistant = {"<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"},
       .open = "<|start_header_id|>assistant<|end_header_id|>\n\n",
       .stop = {"<|eot_id|>", "<|end_of_text|>"},
       .trim = true},
      {.name = "zephyr",
       .system = {"<|system|>\n", "</s>\n"},
       .user = {"<|user|>\n", "</s>\n"},
       .assistant = {"<|assistant|>\n", "</s>\n"},
       .open = "<|assistant|>\n",
       .stop = {"</s>"}},
      {.name = "mistral",
       .begin = "<s>",
       .system = {"", "\n\n"},
       .user = {"[INST] ", " [/INST]"},
       .assistant = {"", "</s>"},
       .stop = {"</s>"},
       .system_in_user = true},
      {.name = "phi3",
       .system = {"<|system|>\n", "<|end|>\n"},
       .user = {"<|user|>\n", "<|end|>\n"},
       .assistant = {"<|assistant|>\n", "<|end|>\n"},
       .open = "<|assistant|>\n",
       .stop = {"<|end|>", "<|endoftext|>"}},
      {.name = "gemma",
       .begin = "<bos>",
       .system = {"", "\n\n"},
       .user = {"<start_of_turn>user\n", "<end_of_turn>\n"},
       .assistant = {"<start_of_turn>model\n", "<end_of_turn>\n"},
       .open = "<start_of_turn>model\n",
       .stop = {"<end_of_turn>", "<eos>"},
       .system_in_user = true,
       .trim = true},
      {.name = "plain",
       .system = {"", "\n\n"},
       .user = {"User: ", "\n"},
       .assistant = {"Assistant: ", "\n"},
       .open = "Assistant:",
       .stop = {"\nUser:"},
       .trim = true},
  };
  return list;
}

bool blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

// A space after the first byte of whatever spells a special token.
std::string harmless(std::string_view content, const std::vector<std::string>& specials) {
  std::string out = neutralised(content);
  for (const std::string& special : specials) {
    if (special.size() < 2 || blank(special.front())) continue;  // some vocabularies have runs of blanks
    for (std::size_t at = 0; (at = out.find(special, at)) != std::string::npos; at += 2) out.insert(at + 1, 1, ' ');
  }
  return out;
}

}  // namespace

std::string neutralised(std::string_view content) {
  constexpr std::size_t kLongestName = 512;
  constexpr std::string_view kOutside = "|<> \t\r\n";  // what a name does not hold
  std::string out;
  for (std::size_t at = 0; at < content.size();) {
    const std::size_t open = content.find("<|", at);
    if (open == std::string_view::npos) {
      out += content.substr(at);
      break;
    }
    out += content.substr(at, open - at);
    std::size_t end = open + 2;
    while (end < content.size() && end - open < kLongestName && kOutside.find(content[end]) == std::string_view::npos) ++end;
    out += end > open + 2 && content.substr(end, 2) == "|>" ? "< |" : "<|";
    at = open + 2;
  }
  return out;
}

ChatTemplate chat_template(std::string_view family) {
  std::string names;
  for (const ChatTemplate& known : families()) {
    if (known.name == family) return known;
    names += (names.empty() ? "" : ", ") + known.name;
  }
  fail("the chat template '{}' is unknown; there are {}", family, names);
}

std::string ChatTemplate::render(const std::vector<ChatMessage>& messages, bool open_answer,
                                 const std::vector<std::string>& specials) const {
  if (messages.empty()) fail("the conversation has no messages; give at least one with the role \"user\"");
  std::string out = begin, held;  // held: system text for the next user message
  const auto add = [&](const Role& role, std::string_view content) {
    out += role.before;
    if (&role == &user) out += std::exchange(held, "");
    out += harmless(trim ? trimmed(content) : content, specials);
    out += role.after;
  };
  const auto add_system = [&](std::string_view content) {
    if (!system_in_user) return add(system, content);
    held += system.before + harmless(trim ? trimmed(content) : content, specials) + system.after;
  };
  if (!default_system.empty() && messages[0].role != "system") add_system(default_system);
  for (const ChatMessage& message : messages) {
    if (message.role == "system")
      add_system(message.content);
    else if (message.role == "user")
      add(user, message.content);
    else if (message.role == "assistant")
      add(assistant, message.content);
    else
      fail("the role '{}' is unknown; a message is of the role system, user or assistant", message.role.substr(0, 40));
  }
  if (!held.empty()) add(user, "");  // a system message and no user's: it is all there is
  if (open_answer) out += open;
  return out;
}

ChatTemplatePtr default_chat_template(const Tokenizer* tokenizer) {
  const bool ours = !tokenizer || (tokenizer->special("<|user|>") >= 0 && tokenizer->special("<|assistant|>") >= 0);
  return std::make_shared<const ChatTemplate>(chat_template(ours ? "rhetor" : "plain"));
}

}  // namespace rhetor
