#include "base/file.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <functional>
#include <iterator>
#include <string>

#include "base/error.h"

namespace rhetor {
namespace {

namespace fs = std::filesystem;

class FileTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / ("rhetor_file_test_" + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::size_t files() const { return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder_), {})); }
  fs::path folder_;
};

ErrorKind kind_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.kind();
  }
  return ErrorKind::internal;
}

TEST_F(FileTest, WritesAndReads) {
  const fs::path path = folder_ / "a";
  const std::string content("zero \0 inside", 13);
  write_file_atomic(path, content);
  EXPECT_EQ(read_file(path), content);
  write_file_atomic(path, "");
  EXPECT_EQ(read_file(path), "");
  EXPECT_EQ(files(), 1u) << "no temporary file is left";
}

TEST_F(FileTest, UncommittedWriteChangesNothing) {
  const fs::path path = folder_ / "a";
  write_file_atomic(path, "old");
  {
    AtomicFile file(path);
    file.write("new, but never committed");
    EXPECT_EQ(read_file(path), "old");
  }
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(files(), 1u);
}

TEST_F(FileTest, MapsWholeFiles) {
  const fs::path path = folder_ / "a";
  write_file_atomic(path, "mapped");
  const auto file = MappedFile::open(path);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()), "mapped");
  write_file_atomic(path, "replaced");
  EXPECT_EQ(static_cast<char>(file->bytes()[0]), 'm') << "a replaced file stays mapped as it was";
  write_file_atomic(path, "");
  EXPECT_TRUE(MappedFile::open(path)->bytes().empty());
}

TEST_F(FileTest, FailuresNameTheirKind) {
  EXPECT_EQ(kind_of([&] { read_file(folder_ / "missing"); }), ErrorKind::not_found);
  EXPECT_EQ(kind_of([&] { MappedFile::open(folder_ / "missing"); }), ErrorKind::not_found);
  EXPECT_THROW(write_file_atomic(folder_ / "no" / "such" / "folder", "x"), Error);
  EXPECT_THROW(read_file(folder_), Error);
  write_file_atomic(folder_ / "big", "0123456789");
  EXPECT_EQ(kind_of([&] { read_file(folder_ / "big", 9); }), ErrorKind::resource);
}

TEST(File, HashIsStable) {
  EXPECT_EQ(hash64(""), 0x2d06800538d394c2ull);  // XXH3-64 of nothing, seed 0
  EXPECT_NE(hash64("a"), hash64("b"));
  EXPECT_NE(hash64("a", 1), hash64("a", 2));
}

}  // namespace
}  // namespace rhetor
