// One subcommand's command line: declared once, parsed by CLI11, with help that teaches and unknown
// options answered with the nearest known one. Not thread-safe; lives on main()'s stack.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace rhetor {

class Args {
 public:
  // `examples` is printed under the options, one command a line.
  Args(const std::string& command, const std::string& description, const std::string& examples);
  ~Args();
  Args(const Args&) = delete;
  Args& operator=(const Args&) = delete;

  // Targets hold the default before parse() and the value after it; the default is shown in the help.
  Args& positional(const std::string& name, std::string& target, const std::string& help, bool required = true);
  Args& positionals(const std::string& name, std::vector<std::string>& target, const std::string& help, bool required = true);
  Args& option(const std::string& flag, std::string& target, const std::string& help);
  Args& option(const std::string& flag, std::int64_t& target, const std::string& help, std::int64_t low, std::int64_t high);
  Args& option(const std::string& flag, double& target, const std::string& help, double low, double high);
  Args& option(const std::string& flag, std::vector<std::string>& target, const std::string& help);
  Args& choice(const std::string& flag, std::string& target, const std::string& help, const std::vector<std::string>& allowed);
  Args& flag(const std::string& flag, bool& target, const std::string& help);

  // False: help was asked for and printed. Fails with one sentence on anything that is not right.
  bool parse(int argc, const char* const* argv);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rhetor
