// Marks calls into libraries that may allocate inside (oneDNN builds its argument map per call). The zero-allocation test counts
// such allocations apart from ours.
#pragma once

namespace rhetor {

class LibraryScope {
 public:
  LibraryScope() : before_(inside_) { inside_ = true; }
  ~LibraryScope() { inside_ = before_; }
  LibraryScope(const LibraryScope&) = delete;
  LibraryScope& operator=(const LibraryScope&) = delete;
  // Is the calling thread inside a library call?
  static bool inside() { return inside_; }

 private:
  bool before_;
  static inline thread_local bool inside_ = false;
};

}  // namespace rhetor
