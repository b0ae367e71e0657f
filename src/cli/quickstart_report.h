// The card and the report.html that the quickstart ends with.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "compress/compress.h"
#include "models/model.h"
#include "train/trainer.h"

namespace rhetor {

struct QuickstartAnswer {
  std::string prompt, answer;
  double first_token_ms = 0, tokens_per_s = 0;
};

struct QuickstartSummary {
  std::string text_name;             // what it was trained on
  std::uint64_t text_bytes = 0;
  ModelConfig config;
  TrainResult training;
  CompressReport compression;
  double compile_ms = 0, plan_open_ms = 0;
  std::uint64_t plan_bytes = 0;
  std::vector<QuickstartAnswer> answers;
  std::string machine;
  double total_seconds = 0;
};

// The few numbers a person wants, as a text table.
std::string quickstart_card(const QuickstartSummary& summary);
// A self-contained page: numbers, loss curve, answers, memory map (pictures are inlined; no script, no network).
std::string quickstart_report(const QuickstartSummary& summary, const std::string& curve_svg, const std::string& memory_svg);

}  // namespace rhetor
