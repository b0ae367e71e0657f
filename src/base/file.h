// Files: whole reads, memory maps, and writes that either finish or leave the old file untouched.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace rhetor {

// Reads a whole file. Fails with Error{io|not_found}; Error{resource} if larger than `limit` bytes.
std::string read_file(const std::filesystem::path& path, std::uint64_t limit = std::uint64_t{1} << 33);

// A read-only memory map of a whole file; an empty file maps to an empty span. Immutable, thread-safe.
class MappedFile {
 public:
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  MappedFile() = default;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  std::filesystem::path path_;
};

// Writes to "<path>.tmp.<pid>.<n>", flushes it to the disk and renames it over `path` on commit(); a crash, a full disk
// or a missing commit() leaves the former file as it was and removes the temporary one. A link is followed: the file it leads to
// is replaced. A device, a pipe or an open descriptor (/dev/stdout) has no former content to keep: bytes go straight to it.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }
  void commit();

 private:
  std::filesystem::path path_, temporary_;  // no temporary: written directly
  int fd_ = -1;
};

void write_file_atomic(const std::filesystem::path& path, std::string_view content);

// "<path>.tmp.<pid>.<n>", another one at each call: for files and folders that are renamed to `path` when they are whole.
std::filesystem::path temporary_name(const std::filesystem::path& path);
// Removes what killed processes left in `folder` under such names. One that a living process writes is kept: its process exists,
// or holds the lock (flock) that a writer takes on its temporary file.
void remove_stale_temporaries(const std::filesystem::path& folder);
// Makes renames inside `folder` survive a power cut.
void flush_folder(const std::filesystem::path& folder);

// Where what can be made again is kept between runs: $RHETOR_CACHE, $XDG_CACHE_HOME/rhetor or ~/.cache/rhetor; "" if none is set. It may
// not exist yet.
std::filesystem::path cache_folder();

// A lock (flock) on a folder for as long as this lives; the kernel releases it when the process ends, however it ends.
class FolderGuard {
 public:
  enum class Mode { shared, exclusive, exclusive_now /* do not wait for it */ };
  FolderGuard(const std::filesystem::path& folder, Mode mode);
  ~FolderGuard();
  FolderGuard(const FolderGuard&) = delete;
  FolderGuard& operator=(const FolderGuard&) = delete;
  bool held() const { return held_; }  // false: somebody else has it, or the folder or its file system has no locks

 private:
  int fd_ = -1;
  bool held_ = false;
};

// XXH3 64-bit hash of bytes: checksums of plan files and checkpoints.
std::uint64_t hash64(std::span<const std::byte> bytes, std::uint64_t seed = 0);
// The same of a whole file, read piece by piece: it takes no memory, whatever the file's size. Fails as MappedFile::open() does.
std::uint64_t hash64_of_file(const std::filesystem::path& path);
// XXH3 128-bit hash: for content that is known by its hash alone.
struct Hash128 {
  std::uint64_t low = 0, high = 0;
  auto operator<=>(const Hash128&) const = default;
};
Hash128 hash128(std::span<const std::byte> bytes);
inline std::uint64_t hash64(std::string_view text, std::uint64_t seed = 0) {
  return hash64(std::as_bytes(std::span(text.data(), text.size())), seed);
}

}  // namespace rhetor
