// Any bytes as a recipe: refused with an Error, or a recipe that says itself again.
#include "base/error.h"
#include "seeds.h"
#include "train/trainer.h"

using namespace rhetor;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const Recipe recipe = Recipe::parse(text, "fuzz");
    const std::string again = recipe.to_toml();
    require(Recipe::parse(again, "again").to_toml() == again);
    recipe.validate();
    recipe.model_config(recipe.vocab).validate();
  } catch (const Error& error) {
    require(error.kind() != ErrorKind::internal);
  }
  // The same bytes as an override, as after -s.
  try {
    Recipe::parse("", "fuzz", {std::string(text)});
  } catch (const Error& error) {
    require(error.kind() != ErrorKind::internal);
  }
  return 0;
}

std::vector<std::string> fuzz_seeds() {
  Recipe recipe;
  recipe.files = {"a.txt", "b \"quoted\".jsonl"};
  recipe.seed = 18446744073709551615ull >> 1;
  return {"", "train.lr=3e-4", "data.files=[\"x\", 'y']", "[model]\nlayers = 4\n[train]\nsteps = 10\nlr = 1e-3 # so\n", recipe.to_toml(),
          "[model]\nfamily = \"bert\"\nlayers = 99999999999\n[data]\nfiles = [[1, {a = 2}], 1979-05-27T07:32:00Z]\n"};
}
