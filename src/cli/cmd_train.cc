// rhetor train, rhetor recipe.
#include "base/error.h"
#include "cli/args.h"
#include "comm/launch.h"
#include "cli/commands.h"
#include "cli/machine_args.h"
#include "cli/output.h"
#include "train/recipe_reference.h"
#include "train/trainer.h"

namespace rhetor {

int cmd_train(int argc, const char* const* argv) {
  std::string recipe_file, json, record;
  std::vector<std::string> overrides;
  MachineArgs machine;
  TrainOptions options;
  std::int64_t ranks = 0;
  Args args("train", "Trains the model a recipe describes, or continues it from its newest checkpoint, bit for bit.",
            "  rhetor train recipes/gpt-small.toml\n"
            "  rhetor train recipes/gpt-small.toml --set train.lr=3e-4 --set train.steps=1000\n"
            "  rhetor train recipes/bert-small.toml --fresh --json result.json");
  args.positional("recipe", recipe_file, "recipe in TOML (`rhetor recipe` lists every key)")
      .option("--set", overrides, "override a key: section.key=value (repeatable)")
      .option("--ranks", ranks, "train data parallel with so many threads, each a rank; under mpirun, srun or torchrun every process is one", 0, 4096)
      .flag("--fresh", options.fresh, "start anew, ignoring checkpoints")
      .flag("--quiet", options.quiet, "no progress line")
      .option("--record", record, "write the first weights and every batch to this folder, to compare a run with another program's")
      .option("--json", json, "write the result to this file");
  machine.add_to(args);
  if (!args.parse(argc, argv)) return 0;
  machine.apply();
  const Recipe recipe = Recipe::load(recipe_file, overrides);
  options.record = record;
  std::unique_ptr<Communicator> communicator;
  if (const std::optional<Launch> launch = detect_launch(); launch && launch->size > 1) {
    if (ranks > 0) fail("--ranks {} makes ranks of threads, but a launcher has started {} processes; leave --ranks out", ranks, launch->size);
    communicator = join(*launch);
    options.communicator = communicator.get();
  }
  const TrainResult result = ranks > 1 ? train_on_threads(recipe, options, static_cast<int>(ranks)) : train(recipe, options);
  if (communicator && communicator->rank() > 0) return 0;
  fmt::print("{} after {} steps: loss {:.4f} -> {:.4f}, validation {:.4f}, {:.0f} tokens/s\nmodel   {}\ncurve   {}\nmetrics {}\n",
             result.stopped ? "stopped" : "finished", result.steps, result.first_loss, result.last_loss, result.validation_loss,
             result.tokens_per_s, result.model_folder.string(), result.curve_file.string(), result.metrics_file.string());
  for (const auto& [name, value] : result.metrics) fmt::print("{:<9} {:.4f}\n", name, value);
  std::vector<JsonField> fields = {{"steps", result.steps},
                    {"best_step", result.best_step},
                    {"tokens", result.tokens},
                    {"parameters", result.parameters},
                    {"first_loss", result.first_loss},
                    {"last_loss", result.last_loss},
                    {"validation_loss", result.validation_loss},
                    {"seconds", result.seconds},
                    {"tokens_per_s", result.tokens_per_s},
                    {"model", result.model_folder.string()}};
  for (const auto& [name, value] : result.metrics) fields.emplace_back("validation_" + name, value);
  write_json(json, fields);
  return 0;
}

int cmd_recipe(int argc, const char* const* argv) {
  std::string file;
  Args args("recipe", "Prints every recipe key with its default, or checks a recipe and prints it completed.",
            "  rhetor recipe\n  rhetor recipe recipes/gpt-small.toml");
  args.positional("recipe", file, "a recipe to check", false);
  if (!args.parse(argc, argv)) return 0;
  fmt::print("{}", file.empty() ? recipe_reference() : Recipe::load(file).to_toml());
  return 0;
}

}  // namespace rhetor
