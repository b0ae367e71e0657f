#include "base/file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <vector>

#include "base/error.h"

namespace rhetor {
namespace {

[[noreturn]] void fail_errno(const char* verb, const std::filesystem::path& path, int code) {
  const ErrorKind kind = code == ENOENT ? ErrorKind::not_found : ErrorKind::io;
  const char* hint = code == ENOSPC || code == EDQUOT ? "; free some space and run the command again" : "";
  fail(kind, "cannot {} '{}': {}{}", verb, path.string(), std::strerror(code), hint);
}

int open_for_reading(const std::filesystem::path& path, struct stat& info) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail_errno("open", path, errno);
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    const bool folder = S_ISDIR(info.st_mode);
    ::close(fd);
    fail("'{}' is {}, expected a regular file", path.string(), folder ? "a folder" : "a special file");
  }
  return fd;
}

std::optional<long> parse_number(std::string_view text) {
  long value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

// N of a path that means this process's open descriptor N.
std::optional<int> open_descriptor(const std::filesystem::path& path) {
  for (const std::string_view folder : {"/dev/fd", "/proc/self/fd"})
    if (path.parent_path() == folder)
      if (const auto number = parse_number(path.filename().native())) return static_cast<int>(*number);
  return std::nullopt;
}

// The pid of a name "X.tmp.PID.N".
std::optional<long> temporary_pid(std::string_view name) {
  const std::size_t last = name.rfind('.');
  if (last == std::string_view::npos || !parse_number(name.substr(last + 1))) return std::nullopt;
  name = name.substr(0, last);
  const std::size_t before = name.rfind('.');
  if (before == std::string_view::npos || !name.substr(0, before).ends_with(".tmp")) return std::nullopt;
  return parse_number(name.substr(before + 1));
}

// Whether a writer lives: another process of that number, or the holder of the lock on it.
bool written_by_somebody(const std::filesystem::path& path, long pid) {
  if (pid != ::getpid() && (::kill(static_cast<pid_t>(pid), 0) == 0 || errno != ESRCH)) return true;
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) return true;
  const bool locked = ::flock(fd, LOCK_EX | LOCK_NB) != 0 && (errno == EWOULDBLOCK || pid == ::getpid());
  ::close(fd);
  return locked;
}

// Removes what killed processes left in `folder` under temporary names that begin with `prefix`; with one, another thread may be about to
// lock a file of ours, so those stay.
void remove_stale(const std::filesystem::path& folder, std::string_view prefix) {
  std::error_code ignored;
  std::vector<std::filesystem::path> stale;
  for (std::filesystem::directory_iterator it(folder, ignored), end; !ignored && it != end; it.increment(ignored)) {
    const std::filesystem::path name = it->path().filename();
    const auto pid = temporary_pid(name.native());
    if (!pid || !name.native().starts_with(prefix) || (!prefix.empty() && *pid == ::getpid())) continue;
    if (!written_by_somebody(it->path(), *pid)) stale.push_back(it->path());
  }
  for (const auto& path : stale) std::filesystem::remove_all(path, ignored);
}

}  // namespace

std::string read_file(const std::filesystem::path& path, std::uint64_t limit) {
  struct stat info {};
  const int fd = open_for_reading(path, info);
  if (static_cast<std::uint64_t>(info.st_size) > limit) {
    ::close(fd);
    fail(ErrorKind::resource, "'{}' has {} bytes, more than the {} allowed here", path.string(),
         info.st_size, limit);
  }
  std::string content(static_cast<std::size_t>(info.st_size), '\0');
  std::size_t done = 0;
  while (done < content.size()) {
    const ssize_t got = ::read(fd, content.data() + done, content.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      const int code = errno;
      ::close(fd);
      fail_errno("read", path, code);
    }
    if (got == 0) break;  // the file shrank while we read it
    done += static_cast<std::size_t>(got);
  }
  ::close(fd);
  content.resize(done);
  return content;
}

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
  struct stat info {};
  const int fd = open_for_reading(path, info);
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->path_ = path;
  file->size_ = static_cast<std::size_t>(info.st_size);
  if (file->size_ > 0) {
    void* address = ::mmap(nullptr, file->size_, PROT_READ, MAP_PRIVATE, fd, 0);
    if (address == MAP_FAILED) {
      const int code = errno;
      ::close(fd);
      fail_errno("map", path, code);
    }
    file->data_ = static_cast<const std::byte*>(address);
  }
  ::close(fd);
  return file;
}

MappedFile::~MappedFile() {
  if (size_ > 0) ::munmap(const_cast<std::byte*>(data_), size_);
}

std::filesystem::path temporary_name(const std::filesystem::path& path) {
  static std::atomic<unsigned> counter{0};
  std::filesystem::path out = path;
  out += fmt::format(".tmp.{}.{}", ::getpid(), counter.fetch_add(1));
  return out;
}

void remove_stale_temporaries(const std::filesystem::path& folder) { remove_stale(folder, {}); }

void flush_folder(const std::filesystem::path& folder) {
  const int fd = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

FolderGuard::FolderGuard(const std::filesystem::path& folder, Mode mode) {
  fd_ = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd_ < 0) return;
  const int operation = mode == Mode::shared ? LOCK_SH : mode == Mode::exclusive ? LOCK_EX : LOCK_EX | LOCK_NB;
  int result = 0;
  while ((result = ::flock(fd_, operation)) != 0 && errno == EINTR) {
  }
  held_ = result == 0;
}

FolderGuard::~FolderGuard() {
  if (fd_ >= 0) ::close(fd_);
}

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
  std::error_code ignored;
  for (int links = 0; links < 40; ++links) {
    if (const auto number = open_descriptor(path_)) {
      // Opening a redirected file again would begin at its start; a copy of the descriptor goes on where others stopped writing.
      std::fflush(nullptr);
      fd_ = ::fcntl(*number, F_DUPFD_CLOEXEC, 0);
      if (fd_ < 0) fail_errno("open", path_, errno);
      return;
    }
    const std::filesystem::path target = std::filesystem::read_symlink(path_, ignored);
    if (ignored) break;  // no link
    path_ = target.is_absolute() ? target : path_.parent_path() / target;
  }
  struct stat info {};
  if (::stat(path_.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    if (S_ISDIR(info.st_mode)) fail("'{}' is a folder, expected the name of a file to write", path_.string());
    fd_ = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY);
    if (fd_ < 0) fail_errno("open", path_, errno);
    return;
  }
  temporary_ = temporary_name(path_);
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) fail_errno("create", path_, errno);
  ::flock(fd_, LOCK_EX | LOCK_NB);  // tells remove_stale_temporaries() that somebody writes it
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  check(fd_ >= 0, "AtomicFile::write after commit");
  while (!bytes.empty()) {
    const ssize_t put = ::write(fd_, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail_errno("write", path_, errno);
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
}

void AtomicFile::commit() {
  check(fd_ >= 0, "AtomicFile::commit called twice");
  // Pipes and most devices cannot be flushed and say so by EINVAL.
  if (::fsync(fd_) != 0 && !(temporary_.empty() && (errno == EINVAL || errno == EROFS))) fail_errno("flush", path_, errno);
  if (!temporary_.empty() && ::rename(temporary_.c_str(), path_.c_str()) != 0) fail_errno("rename onto", path_, errno);
  ::close(fd_);
  fd_ = -1;
  if (temporary_.empty()) return;
  // The rename itself must reach the disk too, or a power cut could bring the old name back.
  flush_folder(path_.parent_path());
  // Nobody else will miss what killed writers of this file have left.
  remove_stale(path_.has_parent_path() ? path_.parent_path() : ".", path_.filename().native() + ".tmp.");
}

void write_file_atomic(const std::filesystem::path& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

std::filesystem::path cache_folder() {
  const auto of = [](const char* name) { const char* value = std::getenv(name); return std::string(value ? value : ""); };
  if (const std::string own = of("RHETOR_CACHE"); !own.empty()) return own;
  if (const std::string shared = of("XDG_CACHE_HOME"); !shared.empty()) return std::filesystem::path(shared) / "rhetor";
  if (const std::string home = of("HOME"); !home.empty()) return std::filesystem::path(home) / ".cache" / "rhetor";
  return {};
}

std::uint64_t hash64(std::span<const std::byte> bytes, std::uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

std::uint64_t hash64_of_file(const std::filesystem::path& path) {
  struct stat info {};
  const int fd = open_for_reading(path, info);
  XXH3_state_t* state = XXH3_createState();
  XXH3_64bits_reset(state);
  std::vector<char> piece(std::size_t{1} << 20);
  ssize_t got = 0;
  do {
    got = ::read(fd, piece.data(), piece.size());
    if (got > 0) XXH3_64bits_update(state, piece.data(), static_cast<std::size_t>(got));
  } while (got > 0 || (got < 0 && errno == EINTR));
  const int code = errno;
  const std::uint64_t hash = XXH3_64bits_digest(state);
  XXH3_freeState(state);
  ::close(fd);
  if (got < 0) fail_errno("read", path, code);
  return hash;
}

Hash128 hash128(std::span<const std::byte> bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.low64, hash.high64};
}

}  // namespace rhetor
