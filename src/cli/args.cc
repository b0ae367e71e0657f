#include "cli/args.h"

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <cstdio>

#include "base/error.h"
#include "graph/op.h"

namespace rhetor {

struct Args::Impl {
  Impl(const std::string& name, const std::string& description) : command(name), app(description, "rhetor " + name) {}
  std::string command;
  CLI::App app;
  std::vector<std::string> flags;
  void remember(const std::string& names) {
    for (std::size_t begin = 0; begin < names.size();) {
      std::size_t end = names.find(',', begin);
      if (end == std::string::npos) end = names.size();
      flags.push_back(names.substr(begin, end - begin));
      begin = end + 1;
    }
  }
};

Args::Args(const std::string& command, const std::string& description, const std::string& examples)
    : impl_(std::make_unique<Impl>(command, description)) {
  impl_->app.get_formatter()->column_width(34);
  impl_->remember("--help");
  if (!examples.empty()) impl_->app.footer("\nExamples:\n" + examples);
}
Args::~Args() = default;

Args& Args::positional(const std::string& name, std::string& target, const std::string& help, bool required) {
  auto* option = impl_->app.add_option(name, target, help);
  if (required) option->required();
  return *this;
}
Args& Args::positionals(const std::string& name, std::vector<std::string>& target, const std::string& help, bool required) {
  auto* option = impl_->app.add_option(name, target, help);
  if (required) option->required();
  return *this;
}
Args& Args::option(const std::string& flag, std::string& target, const std::string& help) {
  impl_->remember(flag);
  impl_->app.add_option(flag, target, help)->capture_default_str();
  return *this;
}
Args& Args::option(const std::string& flag, std::int64_t& target, const std::string& help, std::int64_t low, std::int64_t high) {
  impl_->remember(flag);
  impl_->app.add_option(flag, target, help)->capture_default_str()->check(CLI::Range(low, high));
  return *this;
}
Args& Args::option(const std::string& flag, double& target, const std::string& help, double low, double high) {
  impl_->remember(flag);
  impl_->app.add_option(flag, target, help)->capture_default_str()->check(CLI::Range(low, high));
  return *this;
}
Args& Args::option(const std::string& flag, std::vector<std::string>& target, const std::string& help) {
  impl_->remember(flag);
  impl_->app.add_option(flag, target, help)->allow_extra_args(false);
  return *this;
}
Args& Args::choice(const std::string& flag, std::string& target, const std::string& help, const std::vector<std::string>& allowed) {
  impl_->remember(flag);
  impl_->app.add_option(flag, target, help)->capture_default_str()->check(CLI::IsMember(allowed));
  return *this;
}
Args& Args::flag(const std::string& flag, bool& target, const std::string& help) {
  impl_->remember(flag);
  impl_->app.add_flag(flag, target, help);
  return *this;
}

bool Args::parse(int argc, const char* const* argv) {
  // An unknown option is answered here: CLI11 would list it without saying what was probably meant.
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--") break;
    if (!word.starts_with("--") || word.size() < 3) continue;
    const std::string_view name = word.substr(0, word.find('='));
    bool known = false;
    for (const auto& flag : impl_->flags) known = known || flag == name;
    if (known) continue;
    const std::vector<std::string_view> names(impl_->flags.begin(), impl_->flags.end());
    const std::string near = nearest(name, names);
    fail("rhetor {}: unknown option {}{}; `rhetor {} --help` lists them", impl_->command, name,
         near.empty() ? "" : ", did you mean " + near + "?", impl_->command);
  }
  try {
    impl_->app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    std::fputs(impl_->app.help().c_str(), stdout);
    return false;
  } catch (const CLI::ParseError& error) {
    fail("rhetor {}: {}; `rhetor {} --help` explains", impl_->command, error.what(), impl_->command);
  }
  return true;
}

}  // namespace rhetor
