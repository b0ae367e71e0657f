#include "text/pipeline_parts.h"

#include <fmt/core.h>

#include <algorithm>

#include "text/text_cutter.h"
#include "text/vocabulary_json.h"

namespace rhetor {

Truncation read_truncation(const Json& json, const std::string& name) {
  Truncation out;
  if (json.is_null()) return out;
  const JsonPart part(json, name + ": truncation");
  out.on = true;
  out.max_length = part.integer("max_length", 0, std::int64_t{1} << 40);
  const std::string strategy = part.text("strategy", "LongestFirst"), direction = part.text("direction", "Right");
  if (strategy == "OnlyFirst") out.strategy = Truncation::Strategy::only_first;
  else if (strategy == "OnlySecond") out.strategy = Truncation::Strategy::only_second;
  else if (strategy != "LongestFirst") fail("{}: 'strategy' must be LongestFirst, OnlyFirst or OnlySecond, found {}", part.where(), shown(strategy));
  if (direction != "Left" && direction != "Right") fail("{}: 'direction' must be Left or Right, found {}", part.where(), shown(direction));
  out.left = direction == "Left";
  return out;
}

namespace {

void keep(Encoding& e, std::size_t length, bool left) {
  if (e.ids.size() <= length) return;
  const auto cut = [&](auto& list) {
    if (left) list.erase(list.begin(), list.end() - static_cast<std::ptrdiff_t>(length));
    else list.resize(length);
  };
  cut(e.ids);
  cut(e.segments);
  cut(e.ranges);
  cut(e.added);
}

}  // namespace

void truncate(const Truncation& truncation, std::size_t added, std::vector<EncodedPart>& parts) {
  if (!truncation.on) return;
  const auto limit = static_cast<std::size_t>(truncation.max_length);
  const std::size_t most = limit > added ? limit - added : 0;
  std::size_t first = parts[0].encoding.ids.size(), second = parts.size() > 1 ? parts[1].encoding.ids.size() : 0;
  if (first + second <= most) return;
  using Strategy = Truncation::Strategy;
  if (parts.size() == 1) {
    if (truncation.strategy != Strategy::only_second) first = most;
  } else if (truncation.strategy == Strategy::longest_first) {
    // The shorter one stays whole while the longer one can make room; else both get half.
    std::size_t low = std::min(first, second);
    std::size_t high = low > most ? low : std::max(low, most - low);
    if (low + high > most) {
      low = most / 2;
      high = low + most % 2;
    }
    const bool first_is_longer = first > second;
    first = first_is_longer ? high : low;
    second = first_is_longer ? low : high;
  } else {
    std::size_t& target = truncation.strategy == Strategy::only_first ? first : second;
    const std::size_t excess = first + second - most;
    target = target > excess ? target - excess : 0;
  }
  keep(parts[0].encoding, first, truncation.left);
  if (parts.size() > 1) keep(parts[1].encoding, second, truncation.left);
}

std::string parts_as_json(const Json& root, const AddedTokens& added) {
  const auto part = [&](const char* key) { return member_or_null(root, key).dump(-1, ' ', false, Json::error_handler_t::replace); };
  std::string out = fmt::format("{{\n  \"version\": \"1.0\",\n  \"truncation\": {},\n  \"padding\": {},\n  \"added_tokens\": [", part("truncation"),
                                part("padding"));
  auto tokens = added.list();
  std::sort(tokens.begin(), tokens.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const AddedToken& t = tokens[i];
    out += fmt::format("{}\n    {{\"id\": {}, \"content\": {}, \"single_word\": {}, \"lstrip\": {}, \"rstrip\": {}, \"normalized\": {}, "
                       "\"special\": {}}}",
                       i ? "," : "", t.id, json_string(t.text), t.single_word, t.lstrip, t.rstrip, t.normalized, t.special);
  }
  out += tokens.empty() ? "],\n" : "\n  ],\n";
  for (const char* key : {"normalizer", "pre_tokenizer", "post_processor", "decoder"}) out += fmt::format("  \"{}\": {},\n", key, part(key));
  return out;
}

}  // namespace rhetor
