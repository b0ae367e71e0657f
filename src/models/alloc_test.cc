// Session::run allocates nothing: decode, prefill and a training step of a small GPT. Every allocation of the process goes through the
// functions below; those made inside marked library calls (oneDNN) are counted apart.
#include <atomic>
#include <cerrno>
#include <cstdlib>

#include "cpu/library_scope.h"
#include "models/test_models.h"

namespace {

std::atomic<bool> counting{false};
std::atomic<long> ours{0}, library{0};

void count() {
  if (!counting.load(std::memory_order_relaxed)) return;
  (rhetor::LibraryScope::inside() ? library : ours).fetch_add(1, std::memory_order_relaxed);
}

// Sanitizers bring their own allocator; the counting is left to plain builds.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kCounts = false;
#else
constexpr bool kCounts = true;
#endif

}  // namespace

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

void* malloc(size_t n) {
  count();
  return __libc_malloc(n);
}
void* calloc(size_t n, size_t size) {
  count();
  return __libc_calloc(n, size);
}
void* realloc(void* p, size_t n) {
  count();
  return __libc_realloc(p, n);
}
void* aligned_alloc(size_t alignment, size_t n) {
  count();
  return __libc_memalign(alignment, n);
}
void* memalign(size_t alignment, size_t n) {
  count();
  return __libc_memalign(alignment, n);
}
int posix_memalign(void** p, size_t alignment, size_t n) {
  count();
  *p = __libc_memalign(alignment, n);
  return *p ? 0 : ENOMEM;
}
}
#endif

namespace rhetor::testing {
namespace {

using Task = BuildSpec::Task;

void expect_no_allocation(Session& session, const std::string& what) {
  if (!kCounts) GTEST_SKIP() << "a sanitizer owns the allocator";
  session.run();  // libraries may set up their threads in the first run
  ours = library = 0;
  counting = true;
  for (int i = 0; i < 3; ++i) session.run();
  counting = false;
  EXPECT_EQ(ours.load(), 0) << what;
  // What libraries allocate inside their own calls is theirs to answer for; it is recorded with the test.
  ::testing::Test::RecordProperty("library_allocations", static_cast<int>(library.load()));
}

TEST(Allocation, CountingWorks) {
  if (!kCounts) GTEST_SKIP();
  ours = 0;
  counting = true;
  std::vector<std::string> grows(1000, std::string(100, 'x'));
  counting = false;
  EXPECT_GE(ours.load(), 1000);
}

TEST(Allocation, NoneInDecodeAndPrefill) {
  for (const char* family : {"gpt2", "llama"}) {
    const ModelConfig c = tiny(family);
    for (const std::int64_t seq : {1, 8}) {
      for (const bool int8 : {false, true}) {
        const Graph g = build_model(c, {.task = Task::cached, .batch = 2, .seq = seq});
        CompileOptions options;
        options.passes.int8 = int8;
        Session session(compile(g, init_weights(g, 1), options));
        expect_no_allocation(session, fmt::format("{} seq {}{}", family, seq, int8 ? " int8" : ""));
      }
    }
  }
}

TEST(Allocation, NoneInATrainingStep) {
  for (const DType compute : {DType::f32, DType::bf16}) {
    ModelConfig c = tiny("gpt2");
    c.dropout = 0.1;
    const Graph g = training_graph(c, 2, 8);
    CompileOptions options;
    options.passes.compute = compute;
    Session session(compile(g, {}, options));
    session.input("step").set(0, 1);
    expect_no_allocation(session, fmt::format("training {}", name(compute)));
  }
}

}  // namespace
}  // namespace rhetor::testing
