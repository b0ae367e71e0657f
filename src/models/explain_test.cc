#include "models/explain.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include "base/error.h"
#include "models/model.h"

namespace rhetor {
namespace {

using ::testing::HasSubstr;

std::string refusal(const std::filesystem::path& model, const ExplainOptions& options) {
  try {
    explain_model(model, options);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Explain, RefusesWhatItCannotShow) {
  EXPECT_THAT(refusal("bert-tiny", {.seq = 1 << 20}), HasSubstr("longer than the context"));
  EXPECT_THAT(refusal("bert-tiny", {.dtype = "f8"}), HasSubstr("unknown"));
}

TEST(Explain, TitleNamesThePrecision) {
  for (const char* dtype : {"f32", "bf16"})
    EXPECT_THAT(explain_model("bert-tiny", {.seq = 4, .dtype = dtype}).text.substr(0, 80), HasSubstr(fmt::format("4 tokens, {}\n", dtype)));
}

TEST(Explain, FolderOfInt8WeightsSaysSo) {
  const auto folder = std::filesystem::temp_directory_path() / fmt::format("rhetor_explain_{}", ::getpid());
  Model model;
  model.config = model_preset("bert-tiny");
  for (const auto& [name, expected] : expected_weights(model.config)) model.weights[name] = Tensor(expected.type);
  model.config.quantization = "int8";
  for (const auto& [name, transposed] : int8_weights(model.config)) {
    const auto found = model.weights.find(name);
    if (found == model.weights.end()) continue;
    // Stored [n,k] whichever way the weight was, one scale an output channel.
    Shape shape = found->second.shape();
    if (!transposed) shape = Shape{shape.sizes()[1], shape.sizes()[0]};
    model.weights[name + ".int8"] = Tensor(DType::i8, shape);
    model.weights[name + ".scale"] = Tensor(DType::f32, Shape{shape.sizes()[0]});
    model.weights.erase(name);
  }
  save_model(folder, model);
  EXPECT_THAT(explain_model(folder, {.seq = 4}).text.substr(0, 120), HasSubstr("4 tokens, int8\n"));
  EXPECT_THAT(refusal(folder, {.seq = 4, .dtype = "bf16"}), HasSubstr("int8 weights"));
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace rhetor
