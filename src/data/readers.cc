// Byte streams over plain, gzip, xz and zstd files. The form is told by the first bytes, never by the name.
#include <fcntl.h>
#include <lzma.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "data/corpus.h"

namespace rhetor {
namespace {

constexpr std::size_t kChunk = 256 << 10;
constexpr std::uint64_t kXzMemory = 1u << 30;  // "xz -9" needs 65 MB; a hostile header may ask for gigabytes
constexpr int kZstdWindowLog = 27;             // 128 MB, what the zstd program accepts without --long

class PlainReader final : public ByteReader {
 public:
  explicit PlainReader(const std::filesystem::path& path) : path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0)
      fail(errno == ENOENT ? ErrorKind::not_found : ErrorKind::io, "cannot open '{}': {}", path.string(), std::strerror(errno));
    struct stat info {};
    if (::fstat(fd_, &info) != 0 || !S_ISREG(info.st_mode)) {
      ::close(fd_);
      fail("'{}' is {}, expected a regular file", path.string(), S_ISDIR(info.st_mode) ? "a folder" : "a special file");
    }
  }
  ~PlainReader() override { ::close(fd_); }
  std::size_t read(char* to, std::size_t size) override {
    for (;;) {
      const ssize_t got = ::read(fd_, to, size);
      if (got >= 0) return static_cast<std::size_t>(got);
      if (errno != EINTR) fail(ErrorKind::io, "cannot read '{}': {}", path_.string(), std::strerror(errno));
    }
  }
  std::string name() const { return path_.string(); }

 private:
  std::filesystem::path path_;
  int fd_;
};

// The compressed bytes: a buffer, its place in the file, and the sentences for damage.
struct Input {
  std::unique_ptr<PlainReader> file;
  const char* format;
  std::vector<unsigned char> buffer = std::vector<unsigned char>(kChunk);
  std::size_t begin = 0, end = 0;
  std::uint64_t base = 0;  // file offset of buffer[0]
  bool at_end = false;

  // Makes sure that something is there; false at the end of the file.
  bool fill() {
    if (begin < end) return true;
    if (at_end) return false;
    base += end;
    begin = 0;
    end = file->read(reinterpret_cast<char*>(buffer.data()), buffer.size());
    at_end = end == 0;
    return !at_end;
  }
  std::uint64_t offset() const { return base + begin; }
  [[noreturn]] void truncated() const {
    fail("'{}' ends at byte {} in the middle of its {} data; the file is truncated, copy or download it again", file->name(),
         offset(), format);
  }
  [[noreturn]] void damaged(const std::string& why) const {
    fail("'{}' is damaged near byte {} of its {} data ({}); copy or download it again", file->name(), offset(), format, why);
  }
};

class GzipReader final : public ByteReader {
 public:
  explicit GzipReader(std::unique_ptr<PlainReader> file) : in_{std::move(file), "gzip"} {
    if (inflateInit2(&z_, 15 + 16) != Z_OK) throw std::bad_alloc();  // 32 KB window, gzip header
  }
  ~GzipReader() override { inflateEnd(&z_); }
  std::size_t read(char* to, std::size_t size) override {
    z_.next_out = reinterpret_cast<Bytef*>(to);
    z_.avail_out = static_cast<uInt>(std::min<std::size_t>(size, 1u << 30));
    const uInt room = z_.avail_out;
    while (z_.avail_out == room) {
      if (!in_.fill()) {
        if (!between_) in_.truncated();
        break;
      }
      if (between_ && !start_member()) continue;
      z_.next_in = in_.buffer.data() + in_.begin;
      z_.avail_in = static_cast<uInt>(in_.end - in_.begin);
      const int status = inflate(&z_, Z_NO_FLUSH);
      in_.begin = in_.end - z_.avail_in;
      if (status == Z_MEM_ERROR) throw std::bad_alloc();
      if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR) in_.damaged(z_.msg ? z_.msg : "not gzip");
      between_ = status == Z_STREAM_END;
    }
    return room - z_.avail_out;
  }

 private:
  // Members may follow each other, with zero padding between them and at the end (tapes, some block devices).
  bool start_member() {
    if (any_ && in_.buffer[in_.begin] == 0) {
      ++in_.begin;
      return false;
    }
    inflateReset(&z_);
    between_ = false;
    any_ = true;
    return true;
  }
  Input in_;
  z_stream z_{};
  bool between_ = true, any_ = false;
};

class XzReader final : public ByteReader {
 public:
  explicit XzReader(std::unique_ptr<PlainReader> file) : in_{std::move(file), "xz"} {
    if (lzma_stream_decoder(&x_, kXzMemory, LZMA_CONCATENATED) != LZMA_OK) throw std::bad_alloc();
  }
  ~XzReader() override { lzma_end(&x_); }
  std::size_t read(char* to, std::size_t size) override {
    x_.next_out = reinterpret_cast<std::uint8_t*>(to);
    x_.avail_out = size;
    while (x_.avail_out == size && !done_) {
      const bool more = in_.fill();
      x_.next_in = in_.buffer.data() + in_.begin;
      x_.avail_in = more ? in_.end - in_.begin : 0;
      const lzma_ret status = lzma_code(&x_, more ? LZMA_RUN : LZMA_FINISH);
      if (more) in_.begin = in_.end - x_.avail_in;
      done_ = status == LZMA_STREAM_END;
      if (status == LZMA_OK || done_) continue;
      if (status == LZMA_MEM_ERROR) throw std::bad_alloc();
      if (status == LZMA_BUF_ERROR) in_.truncated();
      if (status == LZMA_MEMLIMIT_ERROR)
        fail(ErrorKind::resource, "'{}' asks for more than {} MB to unpack; repack it with 'xz -9' or less", in_.file->name(),
             kXzMemory >> 20);
      in_.damaged(status == LZMA_FORMAT_ERROR   ? "no xz stream here"
                  : status == LZMA_OPTIONS_ERROR ? "unknown options"
                                                 : "the data or its checksum is wrong");
    }
    return size - x_.avail_out;
  }

 private:
  Input in_;
  lzma_stream x_ = LZMA_STREAM_INIT;
  bool done_ = false;
};

class ZstdReader final : public ByteReader {
 public:
  explicit ZstdReader(std::unique_ptr<PlainReader> file) : in_{std::move(file), "zstd"}, z_(ZSTD_createDStream()) {
    if (z_ == nullptr) throw std::bad_alloc();
    ZSTD_DCtx_setParameter(z_, ZSTD_d_windowLogMax, kZstdWindowLog);
  }
  ~ZstdReader() override { ZSTD_freeDStream(z_); }
  std::size_t read(char* to, std::size_t size) override {
    ZSTD_outBuffer out{to, size, 0};
    while (out.pos == 0) {
      const bool more = in_.fill();
      if (!more && left_ == 0) break;  // between two frames
      ZSTD_inBuffer input{in_.buffer.data(), in_.end, in_.begin};
      if (!more) input = {in_.buffer.data(), 0, 0};
      const std::size_t result = ZSTD_decompressStream(z_, &out, &input);
      if (ZSTD_isError(result)) {
        if (more) in_.begin = input.pos;
        in_.damaged(ZSTD_getErrorName(result));
      }
      if (more) in_.begin = input.pos;
      left_ = result;
      if (!more && out.pos == 0 && left_ != 0) in_.truncated();
    }
    return out.pos;
  }

 private:
  Input in_;
  ZSTD_DStream* z_;
  std::size_t left_ = 0;  // 0: a frame has ended and is flushed
};

}  // namespace

std::unique_ptr<ByteReader> open_reader(const std::filesystem::path& path) {
  unsigned char magic[6] = {};
  std::size_t got = 0;
  {
    PlainReader peek(path);
    for (std::size_t n = 1; n > 0 && got < sizeof magic; got += n)
      n = peek.read(reinterpret_cast<char*>(magic) + got, sizeof magic - got);
  }
  const auto starts = [&](std::initializer_list<unsigned char> bytes) {
    return got >= bytes.size() && std::equal(bytes.begin(), bytes.end(), magic);
  };
  auto file = std::make_unique<PlainReader>(path);
  if (starts({0x1F, 0x8B})) return std::make_unique<GzipReader>(std::move(file));
  if (starts({0xFD, '7', 'z', 'X', 'Z', 0})) return std::make_unique<XzReader>(std::move(file));
  const bool skippable = got >= 4 && (magic[0] & 0xF0) == 0x50 && magic[1] == 0x2A && magic[2] == 0x4D && magic[3] == 0x18;
  if (starts({0x28, 0xB5, 0x2F, 0xFD}) || skippable) return std::make_unique<ZstdReader>(std::move(file));
  return file;
}

std::string read_unpacked(const std::filesystem::path& path, std::size_t limit) {
  const auto reader = open_reader(path);
  std::string out;
  std::vector<char> buffer(kChunk);
  while (const std::size_t n = reader->read(buffer.data(), buffer.size())) {
    if (out.size() + n > limit) fail(ErrorKind::resource, "'{}' has more than {} bytes; split it", path.string(), limit);
    out.append(buffer.data(), n);
  }
  if (out.starts_with("\xef\xbb\xbf")) out.erase(0, 3);
  return out;
}

}  // namespace rhetor
