#include "base/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
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

TEST_F(FileTest, LinksAreFollowed) {
  fs::create_directories(folder_ / "far");
  write_file_atomic(folder_ / "far" / "real", "old");
  fs::create_symlink("far/real", folder_ / "link");
  fs::create_symlink(folder_ / "link", folder_ / "link2");
  write_file_atomic(folder_ / "link2", "new");
  EXPECT_TRUE(fs::is_symlink(folder_ / "link2"));
  EXPECT_TRUE(fs::is_symlink(folder_ / "link"));
  EXPECT_EQ(read_file(folder_ / "far" / "real"), "new");
  fs::create_symlink("far/made", folder_ / "dangling");
  write_file_atomic(folder_ / "dangling", "made");
  EXPECT_EQ(read_file(folder_ / "far" / "made"), "made");
}

TEST_F(FileTest, DevicesPipesAndDescriptorsAreWrittenToNotReplaced) {
  // A device of our own cannot be made without rights; /dev/full refuses every byte and must stay what it is.
  EXPECT_EQ(kind_of([&] { write_file_atomic("/dev/full", "x"); }), ErrorKind::io);
  write_file_atomic("/dev/null", "x");
  struct stat info {};
  for (const char* device : {"/dev/full", "/dev/null"}) {
    ASSERT_EQ(::stat(device, &info), 0);
    EXPECT_TRUE(S_ISCHR(info.st_mode)) << device;
  }
  const fs::path pipe = folder_ / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  const int reader = ::open(pipe.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  write_file_atomic(pipe, "through");
  char got[16] = {};
  EXPECT_EQ(::read(reader, got, sizeof got), 7);
  EXPECT_STREQ(got, "through");
  ::close(reader);
  EXPECT_TRUE(fs::is_fifo(pipe));
  // A redirected standard output: what was written before stays.
  const int fd = ::open((folder_ / "out").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  ASSERT_EQ(::write(fd, "before ", 7), 7);
  fs::create_symlink(fmt::format("/proc/self/fd/{}", fd), folder_ / "stdout");  // as /dev/stdout is
  write_file_atomic(folder_ / "stdout", "after");
  write_file_atomic(fmt::format("/dev/fd/{}", fd), " and after");
  EXPECT_EQ(read_file(folder_ / "out"), "before after and after");
  ::close(fd);
  EXPECT_EQ(kind_of([&] { write_file_atomic(folder_, "x"); }), ErrorKind::invalid);
}

TEST_F(FileTest, StaleTemporariesAreRemovedAndLivingOnesKept) {
  const pid_t dead = ::fork();
  if (dead == 0) ::_exit(0);
  int status = 0;
  ::waitpid(dead, &status, 0);
  const fs::path alive = folder_ / fmt::format("b.tmp.{}.0", ::getppid());
  write_file_atomic(folder_ / fmt::format("a.tmp.{}.3", dead), "left by a kill");
  fs::create_directories(folder_ / fmt::format("model.tmp.{}.0", dead) / "inside");
  write_file_atomic(folder_ / fmt::format("c.tmp.{}.99999", ::getpid()), "an earlier process of our number");
  for (const fs::path& other : {alive, folder_ / "notes.tmp", folder_ / "x.tmp.12", folder_ / "x.tmp.12.old", folder_ / "y"})
    write_file_atomic(other, "stays");
  AtomicFile writing(folder_ / "mine");
  writing.write("half");
  remove_stale_temporaries(folder_);
  writing.write(" whole");
  writing.commit();
  EXPECT_EQ(read_file(folder_ / "mine"), "half whole");
  EXPECT_TRUE(fs::exists(alive));
  EXPECT_EQ(files(), 6u);
  remove_stale_temporaries(folder_ / "missing");
}

TEST_F(FileTest, AWriteRemovesWhatKilledWritersOfTheSameFileLeft) {
  const pid_t dead = ::fork();
  if (dead == 0) ::_exit(0);
  int status = 0;
  ::waitpid(dead, &status, 0);
  const fs::path left = folder_ / fmt::format("out.tmp.{}.0", dead), other = folder_ / fmt::format("about.tmp.{}.0", dead);
  const fs::path alive = folder_ / fmt::format("out.tmp.{}.0", ::getppid());
  for (const fs::path& path : {left, other, alive}) write_file_atomic(path, "x");
  write_file_atomic(folder_ / "out", "whole");
  EXPECT_EQ(read_file(folder_ / "out"), "whole");
  EXPECT_FALSE(fs::exists(left));
  EXPECT_TRUE(fs::exists(other) && fs::exists(alive));
}

TEST_F(FileTest, HashesInPieces) {
  for (const std::size_t size : {0u, 5u, (1u << 20) - 1, 1u << 20, 3'000'001u}) {   // a file in pieces
    std::string text(size, 'x');
    for (std::size_t i = 0; i < size; i += 7) text[i] = static_cast<char>(i);
    write_file_atomic(folder_ / "f", text);
    EXPECT_EQ(hash64_of_file(folder_ / "f"), hash64(text)) << size;
  }
  EXPECT_THROW(hash64_of_file(folder_ / "none"), Error);
}

TEST(File, HashIsStable) {
  EXPECT_EQ(hash64(""), 0x2d06800538d394c2ull);  // XXH3-64 of nothing, seed 0
  EXPECT_NE(hash64("a"), hash64("b"));
  EXPECT_NE(hash64("a", 1), hash64("a", 2));
}

TEST(File, TheCacheFolderIsWhereTheEnvironmentSays) {
  const auto before = [](const char* name) { const char* value = std::getenv(name); return std::string(value ? value : ""); };
  const std::string own = before("RHETOR_CACHE"), shared = before("XDG_CACHE_HOME");
  setenv("XDG_CACHE_HOME", "/b", 1);
  setenv("RHETOR_CACHE", "/a", 1);
  EXPECT_EQ(cache_folder(), "/a");
  unsetenv("RHETOR_CACHE");
  EXPECT_EQ(cache_folder(), "/b/rhetor");
  if (!own.empty()) setenv("RHETOR_CACHE", own.c_str(), 1);
  if (shared.empty()) unsetenv("XDG_CACHE_HOME");
  else setenv("XDG_CACHE_HOME", shared.c_str(), 1);
}

}  // namespace
}  // namespace rhetor
