// tokenizer.json's "truncation" and "padding", and cutting encodings to a length as the `tokenizers` package does.
#include <algorithm>

#include "text/pipeline_parts.h"

namespace rhetor {
namespace {

constexpr std::int64_t kMaxLength = std::int64_t{1} << 40;
constexpr std::int64_t kMaxPads = 1 << 20;   // longer than any model reads; a file must not make every text huge

bool is_left(const JsonPart& part) {
  const std::string direction = part.text("direction", "Right");
  if (direction != "Left" && direction != "Right") fail("{}: 'direction' must be Left or Right, found {}", part.where(), shown(direction));
  return direction == "Left";
}

Encoding slice(const Encoding& e, std::size_t begin, std::size_t end) {
  Encoding out;
  const auto copy = [&](auto& to, const auto& from) {
    to.assign(from.begin() + static_cast<std::ptrdiff_t>(begin), from.begin() + static_cast<std::ptrdiff_t>(end));
  };
  copy(out.ids, e.ids);
  copy(out.segments, e.segments);
  copy(out.ranges, e.ranges);
  copy(out.added, e.added);
  return out;
}

// Keeps one end of the encoding. Windows go on from there, each `stride` tokens into the one before.
void cut(EncodedPart& part, std::size_t length, const Truncation& truncation, bool windows) {
  const std::size_t count = part.encoding.ids.size(), stride = static_cast<std::size_t>(truncation.stride);
  if (count <= length) return;
  Encoding whole;
  std::swap(whole, part.encoding);
  if (length == 0) {
    if (windows) part.overflow.push_back(std::move(whole));
    return;
  }
  if (windows && stride >= length)
    fail("windows that share {} tokens cannot be cut from a text of which {} tokens fit beside the template; use a smaller stride or a larger "
         "length", stride, length);
  if (windows && (count - length) / (length - stride) > (std::size_t{1} << 27) / length)
    fail(ErrorKind::resource, "a stride of {} cuts a text of {} tokens into too many windows; use a smaller stride", stride, count);
  for (std::size_t done = 0; done < count; done += length - stride) {   // counted from the end that stays
    const std::size_t stop = std::min(done + length, count);
    Encoding window = truncation.left ? slice(whole, count - stop, count - done) : slice(whole, done, stop);
    if (done == 0) part.encoding = std::move(window);
    else part.overflow.push_back(std::move(window));
    if (stop == count || !windows) break;
  }
}

}  // namespace

std::optional<Truncation> read_truncation(const Json& json, const std::string& name) {
  if (json.is_null()) return std::nullopt;
  const JsonPart part(json, name + ": truncation");
  Truncation out;
  out.max_length = part.integer("max_length", 0, kMaxLength);
  if (part.given("stride")) out.stride = part.integer("stride", 0, kMaxLength);
  const std::string strategy = part.text("strategy", "LongestFirst");
  if (strategy == "OnlyFirst") out.strategy = Truncation::Strategy::only_first;
  else if (strategy == "OnlySecond") out.strategy = Truncation::Strategy::only_second;
  else if (strategy != "LongestFirst") fail("{}: 'strategy' must be LongestFirst, OnlyFirst or OnlySecond, found {}", part.where(), shown(strategy));
  out.left = is_left(part);
  return out;
}

std::optional<Padding> read_padding(const Json& json, const std::string& name) {
  if (json.is_null()) return std::nullopt;
  const JsonPart part(json, name + ": padding");
  Padding out;
  const Json& strategy = part.given("strategy") ? part.need("strategy") : Json("BatchLongest");
  if (strategy.is_object() && strategy.size() == 1 && strategy.contains("Fixed")) {
    out.length = JsonPart(strategy, part.where() + ": strategy").integer("Fixed", 1, kMaxPads);
  } else if (strategy != Json("BatchLongest")) {
    fail("{}: 'strategy' must be \"BatchLongest\" or {{\"Fixed\": tokens}}, found {}", part.where(), shown_json(strategy));
  }
  if (part.given("pad_to_multiple_of")) out.multiple_of = part.integer("pad_to_multiple_of", 0, kMaxPads);
  if (part.given("pad_id")) out.id = static_cast<TokenId>(part.integer("pad_id", 0, INT32_MAX));
  if (part.given("pad_type_id")) out.segment = static_cast<std::int32_t>(part.integer("pad_type_id", 0, INT32_MAX));
  out.token = part.text("pad_token", "[PAD]");
  out.left = is_left(part);
  return out;
}

void truncate(const Truncation& truncation, std::size_t added, bool windows, std::vector<EncodedPart>& parts) {
  const auto limit = static_cast<std::size_t>(truncation.max_length);
  const std::size_t most = limit > added ? limit - added : 0;
  std::size_t first = parts[0].encoding.ids.size(), second = parts.size() > 1 ? parts[1].encoding.ids.size() : 0;
  if (first + second <= most) return;
  using Strategy = Truncation::Strategy;
  if (most == 0) {
    first = second = 0;
  } else if (truncation.strategy != Strategy::longest_first) {
    if (truncation.strategy == Strategy::only_second && parts.size() == 1)
      fail("a text of {} tokens is over the limit of {}, and only a second text may be cut (only_second); there is none", first, limit);
    std::size_t& target = truncation.strategy == Strategy::only_first ? first : second;
    const std::size_t excess = first + second - most;
    if (target <= excess)
      fail("a pair of {} and {} tokens cannot be cut to {} by its {} text alone; use longest_first or a larger length", first, second, limit,
           truncation.strategy == Strategy::only_first ? "first" : "second");
    target -= excess;
  } else if (parts.size() == 1) {
    first = most;
  } else {
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
  }
  cut(parts[0], first, truncation, windows);
  if (parts.size() > 1) cut(parts[1], second, truncation, windows);
}

}  // namespace rhetor
