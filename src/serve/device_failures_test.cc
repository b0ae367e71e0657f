// What a service does when its device has too little memory, or is gone.
#include <atomic>

#include "base/error.h"
#include "cuda/cuda.h"
#include "serve/test_service.h"

namespace rhetor {
namespace {

using testing::Call;
using ::testing::HasSubstr;
using testing::Json;
using testing::Service;
using testing::toy;

// toy() on a device with room for batches of `most`, that fails at prompts as told.
class Failing final : public LanguageModel {
 public:
  enum class Prompts { work, too_large_once, lose_the_device };
  Failing(std::int64_t most, Prompts prompts) : most_(most), prompts_(prompts) {}
  const ModelConfig& config() const override { return toy()->config(); }
  const TokenizerPtr& tokenizer() const override { return toy()->tokenizer(); }
  const std::string& name() const override { return toy()->name(); }
  std::uint64_t weight_bytes() const override { return toy()->weight_bytes(); }
  ExecutablePtr cached(std::int64_t batch, std::int64_t seq) const override {
    if (batch > most_) throw Error(ErrorKind::resource, "4096 bytes were asked for and 17 are free");
    return toy()->cached(batch, seq);
  }
  // Asked at every prompt: where a failure while running comes from here.
  std::int64_t prefill_bucket(std::int64_t seq) const override {
    if (armed && prompts_ == Prompts::lose_the_device) {
      set_lost_device("the GPU was lost: it fell off the bus");
      throw Error(ErrorKind::unsupported, lost_device());
    }
    if (prompts_ == Prompts::too_large_once && armed.exchange(false))
      throw Error(ErrorKind::resource, "8192 bytes were asked for and 17 are free");
    return toy()->prefill_bucket(seq);
  }
  mutable std::atomic<bool> armed{false};

 private:
  std::int64_t most_;
  Prompts prompts_;
};

const Json kFour = {{"prompt", "The sea"}, {"n", 4}, {"max_tokens", 4}};

TEST(DeviceFailures, TooLittleMemoryAtLoadMakesBatchesSmaller) {
  Service service(std::make_shared<Failing>(2, Failing::Prompts::work), {.slots = 8});
  EXPECT_EQ(service.server().slots(), 2);
  Call call(service.port(), "/v1/completions", kFour);  // two and two
  EXPECT_EQ(call.status(), 200);
  EXPECT_EQ(call.json()["choices"].size(), 4u);
  EXPECT_THROW(Service(std::make_shared<Failing>(0, Failing::Prompts::work), {.slots = 8}), Error);
}

TEST(DeviceFailures, TooLittleMemoryWhileRunningMakesBatchesSmaller) {
  const auto model = std::make_shared<Failing>(32, Failing::Prompts::too_large_once);
  Service service(model, {.slots = 4});
  model->armed = true;
  EXPECT_EQ(service.server().slots(), 4);
  Call first(service.port(), "/v1/completions", kFour);
  EXPECT_EQ(first.status(), 503);
  EXPECT_THAT(first.body(), HasSubstr("ran out of memory; it goes on with smaller batches"));
  EXPECT_TRUE(testing::eventually([&] { return service.server().slots() == 2; }));
  Call second(service.port(), "/v1/completions", kFour);
  EXPECT_EQ(second.status(), 200);
  EXPECT_EQ(second.json()["choices"].size(), 4u);
}

int losses = 0;

TEST(DeviceFailures, ALostDeviceIsToldAndEndsTheService) {
  losses = 0;
  on_lost_device([] { ++losses; });
  {
    const auto model = std::make_shared<Failing>(32, Failing::Prompts::lose_the_device);
    Service service(model, {.slots = 1});
    model->armed = true;
    for (int i = 0; i < 2; ++i) {
      Call call(service.port(), "/v1/completions", kFour);
      EXPECT_EQ(call.status(), 503);
      EXPECT_THAT(call.body(), HasSubstr("lost its GPU"));
    }
  }
  on_lost_device(nullptr);
  EXPECT_EQ(losses, 1);   // the program is told once
  set_lost_device("");
}

}  // namespace
}  // namespace rhetor
