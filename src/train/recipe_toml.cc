// Recipes from TOML text, files and --set.
// toml++ asserts where some malformed keys begin ("[!a]"); they are the user's mistake, so its assertions throw, in every build.
#include <stdexcept>

[[noreturn]] static void refuse_toml() { throw std::logic_error("a key or value begins with a character that cannot"); }
#undef NDEBUG
#define TOML_ASSERT(expr) ((expr) ? void() : refuse_toml())
#include <toml++/toml.h>

#include <algorithm>
#include <sstream>

#include "base/error.h"
#include "base/file.h"
#include "graph/op.h"
#include "train/recipe_keys.h"

namespace rhetor {
namespace {

using Key = RecipeKey;

std::vector<std::string_view> section_names() {
  std::vector<std::string_view> names;
  for (const Key& key : recipe_keys()) {
    if (names.empty() || names.back() != key.section) names.push_back(key.section);
  }
  return names;
}

// "did you mean train.lr?" or the list of what there is.
[[noreturn]] void fail_unknown(std::string_view where, std::string_view section, std::string_view name) {
  std::vector<std::string> owned;
  std::vector<std::string_view> local, all;
  for (const Key& key : recipe_keys()) owned.push_back(full_name(key));
  for (const Key& key : recipe_keys()) {
    if (key.section == section) local.push_back(key.name);
    if (key.name == name) fail("{}: there is no key {}.{}; did you mean {}?", where, section, name, full_name(key));
  }
  if (std::string near = nearest(name, local); !near.empty()) {
    fail("{}: there is no key {}.{}; did you mean {}.{}?", where, section, name, section, near);
  }
  all.assign(owned.begin(), owned.end());
  if (std::string near = nearest(fmt::format("{}.{}", section, name), all); !near.empty()) {
    fail("{}: there is no key {}.{}; did you mean {}?", where, section, name, near);
  }
  std::string list;
  for (auto known : local) list += fmt::format("{}{}", list.empty() ? "" : ", ", known);
  fail("{}: there is no key {}.{}; [{}] has {}", where, section, name, section, list);
}

void check_section(std::string_view where, std::string_view section) {
  const auto names = section_names();
  for (auto known : names) {
    if (known == section) return;
  }
  for (const Key& key : recipe_keys()) {
    if (key.name == section) fail("{}: '{}' stands outside its section; write it under [{}]", where, section, key.section);
  }
  const std::string near = nearest(section, names);
  if (!near.empty()) fail("{}: there is no section [{}]; did you mean [{}]?", where, section, near);
  fail("{}: there is no section [{}]; the sections are model, data, task, lora, train and output", where, section);
}

const Key& find_key(std::string_view where, std::string_view section, std::string_view name) {
  check_section(where, section);
  for (const Key& key : recipe_keys()) {
    if (key.section == section && key.name == name) return key;
  }
  fail_unknown(where, section, name);
}

std::string describe(const toml::node& node) {
  std::ostringstream text;
  node.visit([&](const auto& value) {
    if constexpr (toml::is_table<decltype(value)>)
      text << "a table";
    else if constexpr (toml::is_array<decltype(value)>)
      text << "a list";
    else if constexpr (toml::is_string<decltype(value)>)
      text << "the text \"" << value.get() << '"';
    else if constexpr (toml::is_boolean<decltype(value)>)
      text << (value.get() ? "true" : "false");
    else
      text << value;
  });
  return text.str();
}

[[noreturn]] void fail_type(std::string_view where, const Key& key, std::string_view expected, const toml::node& found) {
  fail("{}: {} must be {}, found {}", where, full_name(key), expected, describe(found));
}

void assign(Recipe& recipe, const Key& key, const toml::node& node, std::string_view where) {
  std::visit(
      [&]<class T>(T Recipe::*member) {
        if constexpr (std::is_same_v<T, std::string>) {
          const auto* text = node.as_string();
          if (!text) fail_type(where, key, "text in quotes", node);
          recipe.*member = text->get();
        } else if constexpr (std::is_same_v<T, double>) {
          if (!node.is_number()) fail_type(where, key, "a number", node);
          recipe.*member = *node.value<double>();
        } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
          std::vector<std::string> list;
          if (const auto* one = node.as_string()) {
            list.push_back(one->get());
          } else if (const auto* array = node.as_array()) {
            for (const auto& item : *array) {
              if (!item.is_string()) fail_type(where, key, "a list of texts", item);
              list.push_back(item.as_string()->get());
            }
          } else {
            fail_type(where, key, "a list of texts", node);
          }
          recipe.*member = std::move(list);
        } else if constexpr (std::is_same_v<T, std::vector<double>>) {
          const auto* array = node.as_array();
          if (!array) fail_type(where, key, "a list of numbers", node);
          std::vector<double> list;
          for (const auto& item : *array) {
            if (!item.is_number()) fail_type(where, key, "a list of numbers", item);
            list.push_back(*item.value<double>());
          }
          recipe.*member = std::move(list);
        } else {
          const auto* integer = node.as_integer();
          if (!integer) fail_type(where, key, "a whole number", node);
          if (std::is_unsigned_v<T> && integer->get() < 0) fail_type(where, key, "a whole number that is not negative", node);
          recipe.*member = static_cast<T>(integer->get());
        }
      },
      key.field);
}

// TOML allows characters beyond ASCII in strings and comments only; toml++ 3.3 has undefined behaviour on some of them elsewhere.
void refuse_stray_characters(std::string_view text, std::string_view where) {
  int line = 1;
  for (std::size_t i = text.starts_with("\xef\xbb\xbf") ? 3 : 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\n') {
      ++line;
    } else if (c == '#') {
      i = std::min(text.find('\n', i), text.size()) - 1;
    } else if (c == '"' || c == '\'') {
      const bool block = text.size() - i >= 3 && text[i + 1] == c && text[i + 2] == c;
      const std::string_view end = text.substr(i, block ? 3 : 1);
      for (i += end.size(); i < text.size() && text.substr(i, end.size()) != end; ++i) {
        if (text[i] == '\n') ++line;
        if (text[i] == '\n' && !block) break;   // not closed: toml++ says so
        if (text[i] == '\\' && c == '"') ++i;
      }
      i += end.size() - 1;
    } else if (static_cast<unsigned char>(c) >= 0x80) {
      fail("{}: line {}: a character that is not ASCII stands outside quotes; put the text in \"quotes\"", where, line);
    }
  }
}

toml::table parse_toml(std::string_view text, std::string_view where) {
  refuse_stray_characters(text, where);
  try {
    return toml::parse(text);
  } catch (const toml::parse_error& error) {
    fail("{}: line {}, column {}: not valid TOML: {}", where, error.source().begin.line, error.source().begin.column,
         error.description());
  } catch (const std::logic_error& error) {
    fail("{}: not valid TOML: {}", where, error.what());
  }
}

void apply_override(Recipe& recipe, const std::string& text) {
  const std::size_t equals = text.find('=');
  const std::size_t dot = text.find('.');
  if (equals == std::string::npos || dot == std::string::npos || dot > equals) {
    fail("--set '{}': expected section.key=value, such as train.lr=3e-4", text);
  }
  const std::string where = fmt::format("--set '{}'", text);
  const Key& key =
      find_key(where, std::string_view(text).substr(0, dot), std::string_view(text).substr(dot + 1, equals - dot - 1));
  const std::string value = text.substr(equals + 1);
  // Bare text (no quotes) is meant as it stands where the key holds text.
  const bool quoted = !value.empty() && (value.front() == '"' || value.front() == '\'' || value.front() == '[');
  if (!quoted && std::holds_alternative<std::string Recipe::*>(key.field)) {
    recipe.*std::get<std::string Recipe::*>(key.field) = value;
  } else if (!quoted && std::holds_alternative<std::vector<std::string> Recipe::*>(key.field)) {
    recipe.*std::get<std::vector<std::string> Recipe::*>(key.field) = {value};
  } else {
    const toml::table table = parse_toml("value = " + value, where);
    assign(recipe, key, *table.get("value"), where);
  }
}

// Paths inside the recipe are relative to `base`, its folder; paths given by --set to where the user stands.
Recipe read(std::string_view text, const std::string& name, const std::filesystem::path& base,
            const std::vector<std::string>& overrides) {
  const std::string where = fmt::format("recipe '{}'", name);
  Recipe recipe;
  for (const auto& [section, node] : parse_toml(text, where)) {
    check_section(where, section.str());
    const auto* table = node.as_table();
    if (!table) fail("{}: [{}] must be a section with keys, found {}", where, section.str(), describe(node));
    for (const auto& [key, value] : *table) assign(recipe, find_key(where, section.str(), key.str()), value, where);
  }
  for (auto& path : recipe.files) path = (base / path).lexically_normal().string();
  for (auto& path : recipe.validation_files) path = (base / path).lexically_normal().string();
  for (std::string* path : {&recipe.tokenizer, &recipe.from})
    if (!path->empty()) *path = (base / *path).lexically_normal().string();
  for (const auto& override_text : overrides) apply_override(recipe, override_text);
  try {
    recipe.validate();
  } catch (const Error& error) {
    throw Error(error.kind(), fmt::format("{}: {}", where, error.what()));
  }
  return recipe;
}

}  // namespace

Recipe Recipe::parse(std::string_view toml, const std::string& name, const std::vector<std::string>& overrides) {
  return read(toml, name, "", overrides);
}

Recipe Recipe::load(const std::filesystem::path& file, const std::vector<std::string>& overrides) {
  return read(read_file(file, 1 << 20), file.string(), file.parent_path(), overrides);
}

}  // namespace rhetor
