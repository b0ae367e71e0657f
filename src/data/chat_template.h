// How a conversation becomes one text for a model: what stands around each message, what opens the answer, what ends it.
//
// A model brings its template along: chat_template.json in its folder (our own format, docs/serving.md), or Hugging Face's Jinja
// template in tokenizer_config.json or chat_template.jinja, which is not run but recognised by its words and mapped to one of the
// families below. Training and answering use the same one. Thread-safety: immutable once made.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace rhetor {

struct ChatMessage {
  std::string role, content;
};

struct ChatTemplate {
  struct Role {
    std::string before, after;
  };
  std::string name = "rhetor";
  std::string begin;  // of the conversation
  Role system, user, assistant;
  std::string open;               // what the model continues with its answer
  std::vector<std::string> stop;  // what ends an answer: special tokens, or texts
  std::string default_system;     // used if the conversation has no system message
  bool system_in_user = false;    // the system text, with what is around it, stands inside the next user message
  bool trim = false;              // messages lose blanks at both ends

  // Roles other than system, user and assistant fail, as does a conversation without messages. Text of a message that spells a
  // special token ("<|end|>" or one of `specials`) is changed by one space, so that nobody can forge a turn.
  std::string render(const std::vector<ChatMessage>& messages, bool open_answer,
                     const std::vector<std::string>& specials = {}) const;
  std::string to_json() const;
};
using ChatTemplatePtr = std::shared_ptr<const ChatTemplate>;
constexpr const char* kChatTemplateFile = "chat_template.json";  // in a model folder, a token folder, a plan file

// The families: rhetor, chatml, llama2, llama3, zephyr, mistral, phi3, gemma, plain. Fails with the list of names.
ChatTemplate chat_template(std::string_view family);
// Our format, untrusted; `name` is for messages.
ChatTemplate parse_chat_template(std::string_view json, const std::string& name);
// The family that a Jinja template belongs to; null if it is none of ours.
ChatTemplatePtr recognise_chat_template(std::string_view jinja, std::string_view end_token);
// "rhetor" if the tokenizer has its tokens (or there is none), otherwise "plain".
ChatTemplatePtr default_chat_template(const Tokenizer* tokenizer);
// What a model folder brings along; null if that is nothing, or, with a warning, a template that is not recognised.
ChatTemplatePtr load_chat_template(const std::filesystem::path& folder);

// "<|name|>" in a text becomes "< |name|>": still readable, but no longer a special token. Other uses of "<|" stay.
std::string neutralised(std::string_view content);

}  // namespace rhetor
