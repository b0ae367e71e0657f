// Fine-tuning runs: every kind learns its toy set, and the promises of plain training (resuming, early end, beginning from a
// model) hold.
#include <gmock/gmock.h>

#include <cmath>

#include "base/error.h"
#include "train/task_data.h"
#include "train/test_runs.h"

namespace rhetor::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

const char* const kAnimals[] = {"cat", "dog", "owl", "fox"};
const char* const kThings[] = {"lamp", "boat", "door", "bell"};

Recipe task_recipe(const fs::path& folder, const std::string& kind, const std::string& file, const std::string& text) {
  write_file_atomic(folder / file, text);
  Recipe recipe = toy_recipe(folder, "bert");
  recipe.files = {(folder / file).string()};
  recipe.task = kind;
  recipe.context = 24;
  recipe.vocab = 300;
  recipe.validation = 0.2;
  recipe.steps = 120;
  recipe.batch = 16;
  recipe.validate_every = 40;
  recipe.checkpoint_every = 0;
  return recipe;
}

double metric(const TrainResult& result, const std::string& name) {
  for (const auto& [key, value] : result.metrics)
    if (key == name) return value;
  return std::nan("");
}

// "the cat sees a lamp" with the label of whether an animal is in it.
std::string animal_table(int rows) {
  Rng rng(3);
  std::string out = "text\tlabel\n";
  for (int i = 0; i < rows; ++i) {
    const bool animal = rng.below(2) == 0;
    out += fmt::format("a {} and the {} {}\t{}\n", kThings[rng.below(4)], animal ? kAnimals[rng.below(4)] : kThings[rng.below(4)],
                       i, animal ? "yes" : "no");
  }
  return out;
}

Recipe animal_recipe(const fs::path& folder) { return task_recipe(folder, "classification", "animals.tsv", animal_table(400)); }

TEST(Task, ClassificationLearnsInEveryFamily) {
  for (const char* family : {"bert", "gpt2", "llama"}) {
    ScratchFolder scratch;
    Recipe recipe = animal_recipe(scratch.path());
    recipe.family = family;
    recipe.label_smoothing = 0.05;
    recipe.class_weights = {"balanced"};
    const TrainResult result = train(recipe, {.quiet = true});
    EXPECT_GT(metric(result, "accuracy"), 0.9) << family;
    const ModelPtr model = load_model(recipe.folder);
    EXPECT_EQ(model->config.task, "classification");
    EXPECT_EQ(model->config.label_names, (std::vector<std::string>{"no", "yes"}));
  }
}

TEST(Task, RegressionLearns) {
  ScratchFolder scratch;
  Rng rng(4);
  std::string table;
  for (int i = 0; i < 400; ++i) {
    const auto a = rng.below(4), b = rng.below(4);
    table += fmt::format("{}\t{} {} {}\t{}\n", i, kAnimals[a], kThings[b], i,
                         0.5 * static_cast<double>(a) + 0.25 * static_cast<double>(b));
  }
  Recipe recipe = task_recipe(scratch.path(), "regression", "r.tsv", table);
  recipe.text = "2", recipe.label = "3", recipe.steps = 200;
  EXPECT_GT(metric(train(recipe, {.quiet = true}), "pearson"), 0.8);
}

TEST(Task, SpanLearnsThroughWindows) {
  ScratchFolder scratch;
  Rng rng(5);
  std::string records;
  for (int i = 0; i < 300; ++i) {
    const char* animal = kAnimals[rng.below(4)];
    std::string passage;
    const auto before = rng.below(4);
    for (std::uint64_t k = 0; k < before; ++k) passage += fmt::format("{} ", kThings[rng.below(4)]);
    const std::size_t at = passage.size();
    const bool none = rng.below(4) == 0;
    if (!none) passage += fmt::format("{} ", animal);
    for (int k = 0; k < 3; ++k) passage += fmt::format("{} ", kThings[rng.below(4)]);
    passage += fmt::format("{}", i);
    const std::string answers =
        none ? "{\"text\": [], \"answer_start\": []}" : fmt::format("{{\"text\": [\"{}\"], \"answer_start\": [{}]}}", animal, at);
    records += fmt::format("{{\"question\": \"who\", \"context\": \"{}\", \"answers\": {}}}\n", passage, answers);
  }
  Recipe recipe = task_recipe(scratch.path(), "span", "s.jsonl", records);
  recipe.seq = 16;  // some passages need two windows
  recipe.stride = 4;
  recipe.steps = 200;
  EXPECT_GT(metric(train(recipe, {.quiet = true}), "f1"), 0.7);
}

TEST(Task, TaggingLearns) {
  ScratchFolder scratch;
  Rng rng(6);
  std::string lines;
  for (int i = 0; i < 300; ++i) {
    for (std::uint64_t k = 0; k < 2 + rng.below(4); ++k) {
      const bool animal = rng.below(3) == 0;
      lines += animal ? fmt::format("{} B-ANIMAL\n", kAnimals[rng.below(4)]) : fmt::format("{} O\n", kThings[rng.below(4)]);
    }
    lines += fmt::format("{} O\n\n", i);
  }
  Recipe recipe = task_recipe(scratch.path(), "tagging", "t.conll", lines);
  const TrainResult result = train(recipe, {.quiet = true});
  EXPECT_GT(metric(result, "f1"), 0.9);
  EXPECT_EQ(load_model(recipe.folder)->config.label_names, (std::vector<std::string>{"B-ANIMAL", "O"}));
}

TEST(Task, ChoiceLearnsWithUnequalNumbersOfChoices) {
  ScratchFolder scratch;
  Rng rng(7);
  std::string records;
  for (int i = 0; i < 300; ++i) {
    const auto count = 2 + rng.below(2), right = rng.below(count);
    std::string choices;
    for (std::uint64_t k = 0; k < count; ++k)
      choices += fmt::format("{}\"{}\"", k ? ", " : "", k == right ? kAnimals[rng.below(4)] : kThings[rng.below(4)]);
    records += fmt::format("{{\"text\": \"which lives {}\", \"choices\": [{}], \"label\": {}}}\n", i, choices, right);
  }
  EXPECT_GT(metric(train(task_recipe(scratch.path(), "choice", "c.jsonl", records), {.quiet = true}), "accuracy"), 0.8);
}

TEST(Task, RankingLearnsWithEachLoss) {
  for (const char* loss : {"listwise", "pairwise", "pointwise"}) {
    ScratchFolder scratch;
    Rng rng(8);
    std::string table = "query\tdocument\tlabel\n";
    for (int i = 0; i < 120; ++i)
      for (int k = 0; k < 6; ++k) {
        const bool relevant = k == 0;
        table += fmt::format("who lives {}\ta {} {}\t{}\n", i, relevant ? kAnimals[rng.below(4)] : kThings[rng.below(4)],
                             k * 7 % 6, relevant ? 1 : 0);
      }
    Recipe recipe = task_recipe(scratch.path(), "ranking", "r.tsv", table);
    recipe.ranking = loss;
    recipe.group = 4;
    recipe.batch = 8;
    EXPECT_GT(metric(train(recipe, {.quiet = true}), "mrr"), 0.8) << loss;
  }
}

TEST(Task, EmbeddingsLearnFromMatchesAndFromCosines) {
  ScratchFolder scratch;
  Rng rng(9);
  std::string matches = "text\tpair\n", cosines = "text\tpair\tlabel\n";
  for (int i = 0; i < 300; ++i) {
    matches += fmt::format("{} {} {}\t{} {}\n", kAnimals[i % 4], kThings[i / 4 % 4], i % 9, kAnimals[i % 4], kThings[i / 4 % 4]);
    const auto a = rng.below(4), b = rng.below(2) ? a : rng.below(4);
    cosines += fmt::format("the {} {}\tone {}\t{}\n", kAnimals[a], i % 7, kAnimals[b], a == b ? 5 : 0);
  }
  Recipe recipe = task_recipe(scratch.path(), "embedding", "m.tsv", matches);
  const double before = metric(train(recipe, {.fresh = true, .quiet = true}), "mrr");
  EXPECT_GT(before, 0.15);  // 60 held out, of 16 different kinds: chance is below 0.08
  recipe = task_recipe(scratch.path(), "embedding", "c.tsv", cosines);
  recipe.embedding = "cosine", recipe.scale = 5, recipe.label = "label";
  EXPECT_GT(metric(train(recipe, {.fresh = true, .quiet = true}), "spearman"), 0.7);
}

TEST(Task, AResumedRunIsTheUninterruptedOne) {
  ScratchFolder a, b;
  Recipe whole = animal_recipe(a.path()), parts = animal_recipe(b.path());
  for (Recipe* recipe : {&whole, &parts}) {
    recipe->steps = 30, recipe->validate_every = 7, recipe->dropout = 0.1, recipe->accumulation = 2, recipe->batch = 4;
    recipe->optimizer = "lamb", recipe->layer_decay = 0.8, recipe->keep = "best", recipe->checkpoint_every = 5;
  }
  train(whole, {.quiet = true});
  EXPECT_TRUE(train(parts, {.quiet = true, .stop_after_steps = 13}).stopped);
  const TrainResult result = train(parts, {.quiet = true});
  EXPECT_TRUE(result.resumed);
  EXPECT_EQ(weight_bytes(whole.folder), weight_bytes(parts.folder));
  EXPECT_EQ(metrics_without_timings(fs::path(whole.folder) / "metrics.jsonl"),
            metrics_without_timings(fs::path(parts.folder) / "metrics.jsonl"));
  const TrainResult again = train(parts, {.quiet = true});  // finished: nothing to do, the same answer
  EXPECT_EQ(again.metrics, result.metrics);
  EXPECT_EQ(again.steps, 30);
}

TEST(Task, StopsEarlyAndKeepsTheBest) {
  ScratchFolder scratch;
  Recipe recipe = animal_recipe(scratch.path());
  recipe.steps = 400, recipe.validate_every = 10, recipe.early_stop = 3, recipe.metric = "loss", recipe.lr = 0.05;
  const TrainResult result = train(recipe, {.quiet = true});
  EXPECT_LT(result.steps, 400);
  EXPECT_EQ(result.steps - result.best_step, 30);
  EXPECT_TRUE(fs::exists(fs::path(recipe.folder) / "checkpoints" / "best" / "model.safetensors"));
  const ModelPtr best = load_model(fs::path(recipe.folder) / "checkpoints" / "best"), model = load_model(recipe.folder);
  EXPECT_EQ(best->weights.at("classifier.weight").to_doubles(), model->weights.at("classifier.weight").to_doubles());
}

TEST(Task, BeginsFromAModelFolder) {
  ScratchFolder scratch;
  Recipe first = toy_recipe(scratch.path(), "bert");
  first.folder = (scratch.path() / "base").string();
  first.steps = 10;
  train(first, {.quiet = true});
  Recipe recipe = animal_recipe(scratch.path());
  recipe.from = first.folder;
  recipe.layers = recipe.hidden = recipe.heads = recipe.context = 0;
  recipe.folder = (scratch.path() / "tuned").string();
  recipe.steps = 1, recipe.lr = 1e-12;
  train(recipe, {.quiet = true});
  const ModelPtr base = load_model(first.folder), tuned = load_model(recipe.folder);
  const std::string name = "bert.encoder.layer.0.output.dense.weight";
  EXPECT_NEAR(base->weights.at(name).at(5), tuned->weights.at(name).at(5), 1e-6);
  EXPECT_EQ(base->tokenizer->to_json(), tuned->tokenizer->to_json());
  recipe.layers = 2;
  EXPECT_THROW(train(recipe, {.quiet = true}), Error);
}

TEST(Task, SaysWhatIsWrong) {
  ScratchFolder scratch;
  const auto error_of = [&](const Recipe& recipe) -> std::string {
    try {
      train(recipe, {.fresh = true, .quiet = true});
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  Recipe recipe = animal_recipe(scratch.path());
  recipe.metric = "pearson";
  EXPECT_THAT(error_of(recipe), HasSubstr("has loss, accuracy"));
  recipe = animal_recipe(scratch.path());
  recipe.labels = {"no", "maybe"};
  EXPECT_THAT(error_of(recipe), HasSubstr("the label 'yes'"));
  recipe = animal_recipe(scratch.path());
  recipe.class_weights = {"1", "2", "3"};
  EXPECT_THAT(error_of(recipe), HasSubstr("3 numbers for 2 labels"));
  recipe = animal_recipe(scratch.path());
  recipe.task = "regression";
  EXPECT_THAT(error_of(recipe), HasSubstr("is not a number"));
  recipe = animal_recipe(scratch.path());
  recipe.validation = 0, recipe.keep = "best";
  EXPECT_THAT(error_of(recipe), HasSubstr("need a validation"));
  recipe = toy_recipe(scratch.path());
  recipe.epochs = 2;
  EXPECT_THAT(error_of(recipe), HasSubstr("train.epochs is for tasks"));
}

// Batches of an epoch hold every example once, padded no further than the longest needs.
TEST(Task, AnEpochIsAPermutation) {
  ScratchFolder scratch;
  Recipe recipe = animal_recipe(scratch.path());
  recipe.batch = 8;
  TaskData data(recipe, nullptr, nullptr, [](const std::string&) {});
  data.encode(24, [](const std::string&) {});
  std::vector<std::string> rows;
  for (std::int64_t i = 0; i < data.steps_per_epoch(); ++i) {
    for (const auto& [name, tensor] : data.batch(static_cast<std::uint64_t>(i))) {
      if (name != "tokens") continue;
      EXPECT_LE(tensor.shape()[1], 24);
      for (std::int64_t r = 0; r < 8; ++r) {
        std::string row;
        for (std::int64_t s = 0; s < tensor.shape()[1]; ++s) row += fmt::format("{} ", tensor.at(r * tensor.shape()[1] + s));
        while (row.ends_with(" 0 ")) row.resize(row.size() - 2);
        rows.push_back(row);
      }
    }
  }
  std::sort(rows.begin(), rows.end());
  EXPECT_EQ(std::unique(rows.begin(), rows.end()), rows.end());  // all texts differ by their number
  EXPECT_EQ(static_cast<std::int64_t>(rows.size()), 8 * data.steps_per_epoch());
}

}  // namespace
}  // namespace rhetor::testing
