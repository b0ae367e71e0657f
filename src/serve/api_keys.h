// Who may use the service: a list of keys, from a file or the environment. Immutable, thread-safe.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rhetor {

class ApiKeys {
 public:
  ApiKeys() = default;  // no keys: everybody may
  // A file: one key a line, or "NAME KEY"; blank lines and lines that begin with # are skipped. Fails naming file and line.
  static ApiKeys from_file(const std::filesystem::path& path);
  // A list "KEY,KEY" or "NAME KEY,NAME KEY" as it stands in an environment variable, named `where` in messages.
  static ApiKeys from_list(std::string_view list, const std::string& where);
  void add(const ApiKeys& others);

  bool empty() const { return keys_.empty(); }
  // The name of the key that was presented ("key 1" if it has none); nothing if it is not one of ours. Takes the same time
  // whichever key it is and wherever it differs.
  std::optional<std::string> find(std::string_view presented) const;

 private:
  struct Key {
    std::string name, secret;
  };
  void add_line(std::string_view line, const std::string& where);
  std::vector<Key> keys_;
};

}  // namespace rhetor
