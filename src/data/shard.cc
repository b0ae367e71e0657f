#include "data/shard.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "base/error.h"

namespace rhetor {
namespace {

static_assert(std::endian::native == std::endian::little, "shards are mapped as they are");

constexpr std::size_t kPiece = 1 << 20;
constexpr std::uint32_t kVersion = 1;

struct Header {
  char magic[8] = {'R', 'H', 'T', 'O', 'K', 'E', 'N', 'S'};
  std::uint32_t version = kVersion, token_bytes = 0;
  std::uint64_t tokens = 0, documents = 0, tokenizer_hash = 0, checksum = 0, zero = 0, own = 0;

  std::uint64_t hash() const { return hash64(std::as_bytes(std::span(this, 1)).first(offsetof(Header, own))); }
};
static_assert(sizeof(Header) == TokenShard::kHeader);

std::uint64_t padded(std::uint64_t bytes) { return (bytes + 7) / 8 * 8; }

}  // namespace

std::shared_ptr<const TokenShard> TokenShard::open(const std::filesystem::path& path) {
  std::shared_ptr<TokenShard> shard(new TokenShard);
  shard->file_ = MappedFile::open(path);
  const auto bytes = shard->file_->bytes();
  const auto damaged = [&](const std::string& what) {
    fail("'{}' is damaged: {}; make the token folder again with `rhetor data tokenize`", path.string(), what);
  };
  Header header, expected;
  if (bytes.size() < sizeof header)
    damaged(fmt::format("it has {} bytes, fewer than its header of {}", bytes.size(), sizeof header));
  std::memcpy(&header, bytes.data(), sizeof header);
  if (std::memcmp(header.magic, expected.magic, sizeof header.magic) != 0)
    fail("'{}' is no token shard: it does not begin with RHTOKENS", path.string());
  if (header.hash() != header.own) damaged("the checksum of its header is wrong");
  if (header.version != kVersion)
    fail("'{}' is a token shard of version {}, this program reads version {}; make it again with `rhetor data tokenize`",
         path.string(), header.version, kVersion);
  if (header.token_bytes != 2 && header.token_bytes != 4)
    damaged(fmt::format("it has {} bytes a token, expected 2 or 4", header.token_bytes));
  // What the file can hold bounds both counts before anything is multiplied.
  const std::uint64_t room = bytes.size() - sizeof header;
  const bool fits = header.tokens <= room / header.token_bytes && header.documents <= room / 8;
  const std::uint64_t ids = fits ? padded(header.tokens * header.token_bytes) : 0;
  if (!fits || ids + 8 * header.documents != room)
    damaged(fmt::format("it has {} bytes, not what {} tokens of {} bytes and {} documents take", bytes.size(), header.tokens,
                        header.token_bytes, header.documents));
  shard->tokens_ = static_cast<std::int64_t>(header.tokens);
  shard->token_bytes_ = static_cast<int>(header.token_bytes);
  shard->tokenizer_hash_ = header.tokenizer_hash;
  shard->checksum_ = header.checksum;
  shard->starts_ = {reinterpret_cast<const std::int64_t*>(bytes.data() + sizeof header + ids),
                    static_cast<std::size_t>(header.documents)};
  const auto& starts = shard->starts_;
  if (header.documents == 0 ? header.tokens != 0
                            : starts[0] != 0 || starts.back() > shard->tokens_ || !std::is_sorted(starts.begin(), starts.end()))
    damaged("its documents do not begin one after the other");
  return shard;
}

void TokenShard::verify() const {
  const auto content = file_->bytes().subspan(kHeader);
  std::uint64_t sum = 0;
  for (std::size_t at = 0; at < content.size(); at += kPiece)
    sum = hash64(content.subspan(at, std::min(kPiece, content.size() - at)), sum);
  if (sum != checksum_)
    fail("'{}' is damaged: the checksum of its content is wrong; make the token folder again with `rhetor data tokenize`",
         path().string());
}

TokenShardWriter::TokenShardWriter(std::filesystem::path path, int token_bytes, std::uint64_t tokenizer_hash)
    : path_(std::move(path)), token_bytes_(token_bytes), tokenizer_hash_(tokenizer_hash) {
  fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) fail(ErrorKind::io, "cannot write '{}': {}", path_.string(), std::strerror(errno));
  const char room[sizeof(Header)] = {};   // no magic: an unfinished shard is none
  write_all(room, sizeof room);
}

TokenShardWriter::~TokenShardWriter() {
  if (fd_ >= 0) ::close(fd_);
}

void TokenShardWriter::write_all(const void* bytes, std::size_t size) {
  const char* at = static_cast<const char*>(bytes);
  while (size > 0) {
    const ssize_t n = ::write(fd_, at, size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(ErrorKind::io, "cannot write '{}': {}", path_.string(), std::strerror(errno));
    at += n;
    size -= static_cast<std::size_t>(n);
  }
}

void TokenShardWriter::flush_piece() {
  checksum_ = hash64(piece_, checksum_);
  write_all(piece_.data(), piece_.size());
  piece_.clear();
}

void TokenShardWriter::put(const void* bytes, std::size_t size) {
  const char* at = static_cast<const char*>(bytes);
  while (size > 0) {
    const std::size_t n = std::min(size, kPiece - piece_.size());
    piece_.append(at, n);
    at += n;
    size -= n;
    if (piece_.size() == kPiece) flush_piece();
  }
}

void TokenShardWriter::document(std::span<const TokenId> ids) {
  starts_.push_back(static_cast<std::uint64_t>(tokens_));
  for (const TokenId id : ids) {
    if (id < 0 || (token_bytes_ == 2 && id > 0xFFFF))
      fail("the token id {} does not fit into the {} bytes a token of '{}'", id, token_bytes_, path_.string());
    put(&id, static_cast<std::size_t>(token_bytes_));
  }
  tokens_ += static_cast<std::int64_t>(ids.size());
}

void TokenShardWriter::finish() {
  const std::uint64_t size = static_cast<std::uint64_t>(tokens_) * static_cast<std::uint64_t>(token_bytes_), zeros = 0;
  put(&zeros, padded(size) - size);
  put(starts_.data(), starts_.size() * sizeof starts_[0]);
  if (!piece_.empty()) flush_piece();
  Header header;
  header.token_bytes = static_cast<std::uint32_t>(token_bytes_);
  header.tokens = static_cast<std::uint64_t>(tokens_);
  header.documents = starts_.size();
  header.tokenizer_hash = tokenizer_hash_;
  header.checksum = checksum_;
  header.own = header.hash();
  if (::lseek(fd_, 0, SEEK_SET) != 0) fail(ErrorKind::io, "cannot write '{}': {}", path_.string(), std::strerror(errno));
  write_all(&header, sizeof header);
  const bool flushed = ::fsync(fd_) == 0;
  const bool closed = ::close(fd_) == 0;
  fd_ = -1;
  if (!flushed || !closed) fail(ErrorKind::io, "cannot write '{}' to the disk: {}", path_.string(), std::strerror(errno));
}

}  // namespace rhetor
