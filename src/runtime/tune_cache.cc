// The tuner's file: a line of version, a line a way, and the hash of all before it as the last line.
#include <charconv>
#include <cstring>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/version.h"
#include "runtime/tune.h"

namespace rhetor {
namespace {

constexpr std::string_view kFirstLine = "rhetor ways 1\n";
constexpr std::size_t kMaxBytes = 16 << 20;

template <class T>
bool number(std::string_view& line, T& value, int base = 10) {
  std::from_chars_result end{};
  if constexpr (std::is_floating_point_v<T>) end = std::from_chars(line.data(), line.data() + line.size(), value);
  else end = std::from_chars(line.data(), line.data() + line.size(), value, base);
  if (end.ec != std::errc()) return false;
  line.remove_prefix(static_cast<std::size_t>(end.ptr - line.data()));
  if (!line.empty() && line.front() == ' ') line.remove_prefix(1);
  return true;
}

bool parse_line(std::string_view line, std::map<std::uint64_t, TunedWay>& ways) {
  std::uint64_t key = 0;
  TunedWay way;
  if (!number(line, key, 16) || !number(line, way.threads) || !number(line, way.default_us) || !number(line, way.best_us)) return false;
  if (way.threads < 0 || way.threads > 1 || line.empty()) return false;
  way.kernel = line;
  ways[key] = std::move(way);
  return true;
}

// False: the text is no such file, or damaged.
bool parse(std::string_view text, std::map<std::uint64_t, TunedWay>& ways) {
  if (!text.starts_with(kFirstLine) || text.size() < kFirstLine.size() + 17 || text.back() != '\n') return false;
  const std::size_t last = text.size() - 17;  // 16 digits and the end of the line
  std::string_view hash = text.substr(last, 16);
  std::uint64_t expected = 0;
  if (!number(hash, expected, 16) || hash64(text.substr(0, last)) != expected) return false;
  text = text.substr(0, last);
  text.remove_prefix(kFirstLine.size());
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    if (end == std::string_view::npos || !parse_line(text.substr(0, end), ways)) return false;
    text.remove_prefix(end + 1);
  }
  return true;
}

}  // namespace

TuneCache& TuneCache::instance() {
  // The processor, the version and the kernels there are stand in the name: another machine's or program's ways are never read.
  static TuneCache* const one = [] {
    const std::filesystem::path folder = cache_folder();
    std::string world = std::string(kVersion) + cpu_description();
    for (const KernelRow& row : kernel_table())
      for (const Candidate& candidate : row.candidates) world.append(" ").append(candidate.name);
    const std::uint64_t machine = hash64(world);
    return new TuneCache(folder.empty() ? folder : folder / fmt::format("ways-{:016x}.txt", machine));
  }();
  return *one;
}

std::map<std::uint64_t, TunedWay> TuneCache::read() const {
  std::map<std::uint64_t, TunedWay> ways;
  std::error_code missing;
  if (file_.empty() || !std::filesystem::exists(file_, missing)) return ways;
  try {
    const auto size = std::filesystem::file_size(file_);
    if (size <= kMaxBytes && parse(read_file(file_), ways)) return ways;
    log_warning("the tuning cache '{}' is damaged; it is built anew", file_.string());
  } catch (const std::exception& error) {
    log_warning("the tuning cache '{}' cannot be read ({}); tuning starts anew", file_.string(), error.what());
  }
  return {};
}

void TuneCache::load() {
  if (loaded_) return;
  loaded_ = true;
  ways_ = read();
}

bool TuneCache::empty() {
  const std::lock_guard lock(mutex_);
  load();
  return ways_.empty();
}

bool TuneCache::find(std::uint64_t key, TunedWay& way) {
  const std::lock_guard lock(mutex_);
  load();
  const auto found = ways_.find(key);
  if (found == ways_.end()) return false;
  way = found->second;
  return true;
}

void TuneCache::put(std::uint64_t key, const TunedWay& way) {
  const std::lock_guard lock(mutex_);
  load();
  ways_[key] = way;
  if (file_.empty()) return;
  try {
    std::filesystem::create_directories(file_.parent_path());
    ways_.merge(read());  // ours stay where both know a key
    std::string text(kFirstLine);
    for (const auto& [k, w] : ways_) text += fmt::format("{:016x} {} {:.3f} {:.3f} {}\n", k, w.threads, w.default_us, w.best_us, w.kernel);
    text += fmt::format("{:016x}\n", hash64(text));
    write_file_atomic(file_, text);
  } catch (const std::exception& error) {
    log_warning("the tuning cache '{}' cannot be written: {}", file_.string(), error.what());
    file_.clear();  // once is enough
  }
}

}  // namespace rhetor
