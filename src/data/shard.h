// Token shards: one file of token ids with the beginnings of its documents, mapped into memory.
//
// Layout, version 1, little-endian:
//   offset  0  char[8]  "RHTOKENS"
//           8  u32      version, 1
//          12  u32      bytes a token: 2 (u16) or 4 (u32)
//          16  u64      tokens, T
//          24  u64      documents, D
//          32  u64      hash of the tokenizer.json that made the ids (0 = not known)
//          40  u64      checksum of everything from byte 64 on: XXH3-64 of pieces of 1 MiB, each seeded with the one before (the
//          first with 0) 48  u64      0 56  u64      XXH3-64 of bytes 0 to 55 64  T ids, then zeros up to a multiple of 8
//              D u64    the token each document begins with; the first is 0, they do not fall
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "text/tokenizer.h"

namespace rhetor {

// Immutable, thread-safe.
class TokenShard {
 public:
  // Maps the file and checks its header, its size and the documents' beginnings; fails with one sentence naming the file. The
  // tokens themselves are read by verify().
  static std::shared_ptr<const TokenShard> open(const std::filesystem::path& path);

  // Fails if the content is not what was written.
  void verify() const;
  std::int64_t tokens() const { return tokens_; }
  std::int64_t documents() const { return static_cast<std::int64_t>(starts_.size()); }
  int token_bytes() const { return token_bytes_; }
  std::uint64_t tokenizer_hash() const { return tokenizer_hash_; }
  std::uint64_t checksum() const { return checksum_; }
  const std::filesystem::path& path() const { return file_->path(); }
  const std::byte* ids() const { return file_->bytes().data() + kHeader; }
  std::span<const std::int64_t> starts() const { return starts_; }   // of documents

  static constexpr std::size_t kHeader = 64;

 private:
  TokenShard() = default;
  std::shared_ptr<const MappedFile> file_;
  std::int64_t tokens_ = 0;
  int token_bytes_ = 0;
  std::uint64_t tokenizer_hash_ = 0, checksum_ = 0;
  std::span<const std::int64_t> starts_;
};

// Writes one shard as a stream; memory holds a piece of the tokens and the documents' beginnings. The file counts once finish()
// has returned. Fails naming the file, or an id that `token_bytes` cannot hold.
class TokenShardWriter {
 public:
  TokenShardWriter(std::filesystem::path path, int token_bytes, std::uint64_t tokenizer_hash);
  ~TokenShardWriter();
  TokenShardWriter(const TokenShardWriter&) = delete;
  TokenShardWriter& operator=(const TokenShardWriter&) = delete;
  void document(std::span<const TokenId> ids);
  std::int64_t tokens() const { return tokens_; }
  std::int64_t documents() const { return static_cast<std::int64_t>(starts_.size()); }
  void finish();

 private:
  void put(const void* bytes, std::size_t size);
  void flush_piece();
  void write_all(const void* bytes, std::size_t size);
  std::filesystem::path path_;
  int fd_ = -1, token_bytes_;
  std::uint64_t tokenizer_hash_, checksum_ = 0;
  std::int64_t tokens_ = 0;
  std::vector<std::uint64_t> starts_;
  std::string piece_;
};

}  // namespace rhetor
