#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/rng.h"
#include "data/corpus.h"

namespace rhetor {
namespace {

using ::testing::HasSubstr;

std::filesystem::path file_with(const std::string& name, const std::string& content) {
  const auto path = std::filesystem::path(::testing::TempDir()) / ("rhetor_readers_" + name);
  std::ofstream(path, std::ios::binary) << content;  // no flush to the disk: hundreds of files
  return path;
}

std::string gzipped(const std::string& text) {
  z_stream z{};
  deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&z, text.size()) + 64, '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  z.avail_in = static_cast<uInt>(text.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  deflate(&z, Z_FINISH);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}

std::string xzipped(const std::string& text) {
  std::string out(lzma_stream_buffer_bound(text.size()), '\0');
  std::size_t size = 0;
  lzma_easy_buffer_encode(6, LZMA_CHECK_CRC64, nullptr, reinterpret_cast<const std::uint8_t*>(text.data()), text.size(),
                          reinterpret_cast<std::uint8_t*>(out.data()), &size, out.size());
  out.resize(size);
  return out;
}

std::string zstded(const std::string& text) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress2(context, out.data(), out.size(), text.data(), text.size()));
  ZSTD_freeCCtx(context);
  return out;
}

std::string read_all(const std::filesystem::path& path, std::size_t chunk = 1000) {
  const auto reader = open_reader(path);
  std::string out, buffer(chunk, '\0');
  while (const std::size_t got = reader->read(buffer.data(), buffer.size())) out.append(buffer, 0, got);
  EXPECT_EQ(reader->read(buffer.data(), buffer.size()), 0u);  // the end stays the end
  return out;
}

// Hard to compress, so that archives have many blocks.
std::string noise(std::size_t size) {
  static const std::string all = [] {
    Rng rng(5);
    std::string out(300000, '\0');
    for (char& c : out) c = static_cast<char>('a' + rng.u32() % 24);
    return out;
  }();
  return all.substr(0, size);
}

struct Format {
  const char* name;
  std::string (*pack)(const std::string&);
};
const Format kFormats[] = {{"gzip", gzipped}, {"xz", xzipped}, {"zstd", zstded}};

TEST(Readers, UnpackByContent) {
  const std::string text = noise(300000);
  EXPECT_EQ(read_all(file_with("plain.gz", text)), text);  // the name does not count
  EXPECT_EQ(read_all(file_with("empty", "")), "");
  for (const auto& format : kFormats) {
    const auto path = file_with(format.name, format.pack(text));
    EXPECT_EQ(read_all(path), text) << format.name;
    EXPECT_EQ(read_all(path, 7), text) << format.name;
    EXPECT_EQ(read_all(file_with(format.name, format.pack(""))), "") << format.name;
  }
}

TEST(Readers, ReadConcatenatedMembers) {
  for (const auto& format : kFormats) {
    const std::string joined = format.pack("one ") + format.pack("") + format.pack(noise(300000)) + format.pack(" end");
    EXPECT_EQ(read_all(file_with(format.name, joined)), "one " + noise(300000) + " end") << format.name;
  }
  EXPECT_EQ(read_all(file_with("gzip", gzipped("a") + std::string(600, '\0'))), "a");  // zero padding
}

TEST(Readers, NameFileAndOffsetOfTruncation) {
  for (const auto& format : kFormats) {
    const std::string whole = format.pack(noise(280000));
    for (const std::size_t keep : {std::size_t{7}, std::size_t{20}, whole.size() / 2, whole.size() - 1}) {
      const auto path = file_with(std::string("cut_") + format.name, whole.substr(0, keep));
      try {
        read_all(path);
        ADD_FAILURE() << format.name << " accepted after " << keep << " bytes";
      } catch (const Error& error) {
        EXPECT_THAT(error.what(), HasSubstr(path.string()));
        EXPECT_THAT(error.what(), HasSubstr("byte " + std::to_string(keep))) << format.name;
        EXPECT_THAT(error.what(), HasSubstr("truncated"));
      }
    }
  }
}

TEST(Readers, FindFlippedBits) {
  Rng rng(9);
  const std::string text = noise(30000);
  for (const auto& format : kFormats) {
    const std::string whole = format.pack(text);
    for (int i = 0; i < 40; ++i) {
      std::string bad = whole;
      // Behind the header: flips in its flags, names and times are legal.
      bad[12 + rng.below(bad.size() - 12)] ^= static_cast<char>(1 << rng.below(8));
      const auto path = file_with(std::string("flip_") + format.name, bad);
      try {
        EXPECT_EQ(read_all(path, 4096), text) << format.name;  // some bits of a header change nothing
      } catch (const Error& error) {
        EXPECT_THAT(error.what(), HasSubstr(path.string()));
      }
    }
    EXPECT_THROW(read_all(file_with("trail", whole + "garbage")), Error) << format.name;
  }
}

TEST(Readers, RefuseWhatIsNoFile) {
  EXPECT_THROW(open_reader(std::filesystem::path(::testing::TempDir())), Error);
  EXPECT_THROW(open_reader("/dev/null"), Error);
  try {
    open_reader("no/such/file.txt");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::not_found);
  }
}

}  // namespace
}  // namespace rhetor
