// Templates in files: our JSON, and Hugging Face's Jinja, which is recognised.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "data/chat_template.h"

namespace rhetor {
namespace {

using Json = nlohmann::json;
constexpr std::uint64_t kFileLimit = 1 << 20;

std::string string_in(const Json& json, const char* key, const std::string& name) {
  const auto at = json.find(key);
  if (at == json.end()) return "";
  if (!at->is_string()) fail("{}: '{}' must be a string, found {}", name, key, at->type_name());
  return at->get<std::string>();
}

bool flag_in(const Json& json, const char* key, const std::string& name) {
  const auto at = json.find(key);
  if (at == json.end()) return false;
  if (!at->is_boolean()) fail("{}: '{}' must be true or false, found {}", name, key, at->type_name());
  return at->get<bool>();
}

std::vector<std::string> strings_in(const Json& json, const char* key, const std::string& name) {
  std::vector<std::string> out;
  const auto at = json.find(key);
  if (at == json.end()) return out;
  if (!at->is_array() || at->size() > 16) fail("{}: '{}' must be a list of at most 16 strings", name, key);
  for (const Json& item : *at) {
    if (!item.is_string() || item.get_ref<const std::string&>().empty()) fail("{}: '{}' must hold non-empty strings", name, key);
    out.push_back(item.get<std::string>());
  }
  return out;
}

ChatTemplate::Role role_in(const Json& json, const char* key, const std::string& name) {
  const auto at = json.find(key);
  if (at == json.end())
    fail("{}: '{}' is missing; give what stands before and after its messages, [\"...\", \"...\"]", name, key);
  if (!at->is_array() || at->size() != 2 || !(*at)[0].is_string() || !(*at)[1].is_string())
    fail("{}: '{}' must be a list of two strings: what stands before and after its messages", name, key);
  return {(*at)[0].get<std::string>(), (*at)[1].get<std::string>()};
}

// Hugging Face writes a token as a text or as {"content": text, ...}.
std::string token_in(const Json& json, const char* key) {
  const auto at = json.find(key);
  if (at == json.end()) return "";
  if (at->is_string()) return at->get<std::string>();
  if (at->is_object() && at->contains("content") && (*at)["content"].is_string()) return (*at)["content"].get<std::string>();
  return "";
}

// The system message that ChatML templates put where none is given, if they do: the text up to <|im_end|> in a literal.
std::string default_system_of(std::string_view jinja) {
  for (const std::string_view opening : {"<|im_start|>system\\n", "<|im_start|>system\n"}) {
    for (std::size_t at = 0; (at = jinja.find(opening, at)) != std::string_view::npos;) {
      at += opening.size();
      const std::string_view rest = jinja.substr(at, jinja.substr(at).find("<|im_end|>"));
      // A quote or a brace: not the text itself but an expression that inserts one.
      if (!rest.empty() && rest.size() < 4096 && rest.find_first_of("'\"{}") == std::string_view::npos) return std::string(rest);
    }
  }
  return "";
}

}  // namespace

std::string ChatTemplate::to_json() const {
  const auto pair = [](const Role& role) { return Json::array({role.before, role.after}); };
  const Json json = {{"name", name},
                     {"begin", begin},
                     {"system", pair(system)},
                     {"user", pair(user)},
                     {"assistant", pair(assistant)},
                     {"open", open},
                     {"stop", stop},
                     {"default_system", default_system},
                     {"system_in_user", system_in_user},
                     {"trim", trim}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

ChatTemplate parse_chat_template(std::string_view text, const std::string& name) {
  Json json;
  try {
    json = Json::parse(text);
  } catch (const Json::exception& error) {
    fail("{} is not JSON: {}", name, std::string(error.what()).substr(0, 200));
  }
  if (!json.is_object()) fail("{} must be a JSON object, found {}", name, json.type_name());
  static constexpr std::string_view kKeys[] = {"name", "family", "begin",          "system",         "user", "assistant",
                                               "open", "stop",   "default_system", "system_in_user", "trim"};
  for (const auto& [key, value] : json.items()) {
    if (std::find(std::begin(kKeys), std::end(kKeys), key) == std::end(kKeys))
      fail(
          "{}: the key '{}' is unknown; a chat template has name, begin, system, user, assistant, open, stop, default_system, "
          "system_in_user and trim, or family alone",
          name, key.substr(0, 40));
  }
  if (const std::string family = string_in(json, "family", name); !family.empty()) return chat_template(family);
  ChatTemplate out;
  out.name = json.contains("name") ? string_in(json, "name", name) : "custom";
  out.begin = string_in(json, "begin", name);
  out.system = role_in(json, "system", name);
  out.user = role_in(json, "user", name);
  out.assistant = role_in(json, "assistant", name);
  out.open = string_in(json, "open", name);
  out.stop = strings_in(json, "stop", name);
  out.default_system = string_in(json, "default_system", name);
  out.system_in_user = flag_in(json, "system_in_user", name);
  out.trim = flag_in(json, "trim", name);
  return out;
}

ChatTemplatePtr recognise_chat_template(std::string_view jinja, std::string_view end_token) {
  const auto has = [jinja](std::string_view word) { return jinja.find(word) != std::string_view::npos; };
  const auto found = [&](std::string_view family) {
    auto out = std::make_shared<ChatTemplate>(chat_template(family));
    if (family == "chatml") out->default_system = default_system_of(jinja);
    // Families that end a turn with "the end token", whatever a model calls it.
    if (!end_token.empty() && has("eos_token") && out->stop == std::vector<std::string>{"</s>"}) {
      out->stop = {std::string(end_token)};
      for (auto* role : {&out->system, &out->user, &out->assistant}) {
        if (const std::size_t at = role->after.find("</s>"); at != std::string::npos) role->after.replace(at, 4, end_token);
      }
    }
    return out;
  };
  if (has("<|im_start|>")) return found("chatml");
  if (has("<|start_header_id|>")) return found("llama3");
  if (has("<start_of_turn>")) return found("gemma");
  if (has("[INST]")) return found(has("<<SYS>>") ? "llama2" : "mistral");
  // Phi-3, Zephyr and ours share the names of the roles; what follows them tells them apart.
  const bool roles = has("<|user|>") || (has("<|assistant|>") && has("message['role']"));
  if (roles && has("<|end|>")) return found(has("\\n") || has("|>\n") ? "phi3" : "rhetor");
  if (roles) return found("zephyr");
  if (has("User: ") && has("Assistant:")) return found("plain");
  return nullptr;
}

ChatTemplatePtr load_chat_template(const std::filesystem::path& folder) {
  std::error_code ignored;
  const auto own = folder / kChatTemplateFile, config = folder / "tokenizer_config.json",
             jinja_file = folder / "chat_template.jinja";
  if (std::filesystem::exists(own, ignored))
    return std::make_shared<const ChatTemplate>(
        parse_chat_template(read_file(own, kFileLimit), fmt::format("'{}'", own.string())));
  std::string jinja, end_token, where = config.string();
  if (std::filesystem::exists(config, ignored)) {
    const Json json = Json::parse(read_file(config, kFileLimit), nullptr, false);
    if (!json.is_object()) fail("'{}' must be a JSON object", config.string());
    end_token = token_in(json, "eos_token");
    if (const auto at = json.find("chat_template"); at != json.end() && at->is_string())
      jinja = at->get<std::string>();
    else if (at != json.end() && at->is_array()) {
      // Several templates with names: the one for plain conversations.
      for (const Json& item : *at) {
        if (item.is_object() && item.value("name", Json()) == "default" && item.contains("template") &&
            item["template"].is_string())
          jinja = item["template"].get<std::string>();
      }
    }
  }
  if (std::filesystem::exists(jinja_file, ignored)) jinja = read_file(jinja_file, kFileLimit), where = jinja_file.string();
  if (jinja.empty()) return nullptr;
  auto found = recognise_chat_template(jinja, end_token);
  if (!found)
    log_warning(
        "the chat template in '{}' is of no family known here; the default is used instead; a chat_template.json beside it can "
        "say what is right",
        where);
  return found;
}

}  // namespace rhetor
