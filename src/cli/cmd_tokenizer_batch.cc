#include "cli/cmd_tokenizer.h"

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <charconv>

#include "base/error.h"
#include "base/file.h"
#include "text/batch_encoding.h"

namespace rhetor {
namespace {

struct OwnedPair {
  std::string first, second;
  bool is_pair = false;
};

std::vector<OwnedPair> read_pairs(const std::string& path, bool json) {
  const std::string text = read_file(path == "-" ? "/dev/stdin" : path);
  std::vector<OwnedPair> out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    at = end + 1;
    if (!json) {
      out.push_back({std::move(line), "", false});
      continue;
    }
    const auto value = nlohmann::json::parse(line, nullptr, false);
    const bool pair = value.is_array() && value.size() == 2 && value[0].is_string() && value[1].is_string();
    if (!pair && !value.is_string())
      fail("line {} of {} is neither a JSON string nor a pair [\"first\", \"second\"], which --jsonl asks for", out.size() + 1, path);
    if (pair) out.push_back({value[0].get<std::string>(), value[1].get<std::string>(), true});
    else out.push_back({value.get<std::string>(), "", false});
  }
  return out;
}

std::string as_json(const BatchEncoding& e) {
  const auto list = [](const auto& values) {
    std::string out = "[";
    for (const auto value : values) out += fmt::format("{}{}", out.size() > 1 ? "," : "", static_cast<std::int64_t>(value));
    return out + "]";
  };
  std::string ranges, overflow;
  for (const auto& range : e.encoding.ranges) ranges += fmt::format("{}[{},{}]", ranges.empty() ? "" : ",", range.begin, range.end);
  for (const BatchEncoding& window : e.overflow) overflow += (overflow.empty() ? "" : ",") + as_json(window);
  return fmt::format("{{\"ids\":{},\"segments\":{},\"attention\":{},\"special\":{},\"offsets\":[{}],\"overflow\":[{}]}}", list(e.encoding.ids),
                     list(e.encoding.segments), list(e.attention), list(e.encoding.added), ranges, overflow);
}

}  // namespace

void BatchFlags::add_to(Args& args) {
  args.flag("--batch", batch_, "print the texts as one batch for a model, cut and padded as the tokenizer's file says")
      .option("--truncate", limit_, "a batch, cut to this many tokens a text (with the template's); what is cut off follows as windows", 1, 1 << 20)
      .option("--stride", stride_, "tokens that a window shares with the one before it", 0, 1 << 20)
      .choice("--truncate-strategy", strategy_, "which text of a pair gives way", {"longest-first", "only-first", "only-second"})
      .choice("--truncate-side", side_, "which end is cut off", {"right", "left"})
      .option("--pad", pad_, "a batch, padded to its longest text (longest) or to this many tokens")
      .option("--pad-multiple", multiple_, "pad further, to a multiple of this many tokens", 0, 1 << 20)
      .choice("--pad-side", pad_side_, "where the pads stand", {"right", "left"})
      .option("--pad-token", pad_token_, "the token to pad with; empty = the vocabulary's own")
      .option("--pad-segment", pad_segment_, "the segment (token type) of pads", 0, 1 << 16);
}

int BatchFlags::print(const Tokenizer& tokenizer, const std::string& path, const std::string& text, bool json_lines, bool framed, bool specials) const {
  BatchOptions options = batch_options(tokenizer);
  options.framed = framed;
  options.specials = specials;
  if (limit_ > 0) {
    using Strategy = Truncation::Strategy;
    options.truncation = Truncation{.max_length = limit_, .stride = stride_,
                                    .strategy = strategy_ == "only-first" ? Strategy::only_first
                                                : strategy_ == "only-second" ? Strategy::only_second : Strategy::longest_first,
                                    .left = side_ == "left"};
  }
  if (!pad_.empty()) {
    Padding padding;
    if (pad_ != "longest") {
      const auto [end, error] = std::from_chars(pad_.data(), pad_.data() + pad_.size(), padding.length);
      if (error != std::errc() || end != pad_.data() + pad_.size() || padding.length < 1 || padding.length > (1 << 20))
        fail("--pad must be 'longest' or a number of tokens from 1 to {}, found '{}'", 1 << 20, pad_);
    }
    if (pad_token_.empty()) {
      const Padding own = tokenizer.padding() ? *tokenizer.padding() : default_padding(tokenizer);
      padding.id = own.id;
      padding.token = own.token;
    } else {
      padding.id = tokenizer.special(pad_token_);
      padding.token = pad_token_;
      if (padding.id < 0) fail("'{}' is no special token of this tokenizer; `rhetor tokenizer info` lists them", pad_token_);
    }
    padding.left = pad_side_ == "left";
    padding.multiple_of = multiple_;
    padding.segment = static_cast<std::int32_t>(pad_segment_);
    options.padding = padding;
  }
  const std::vector<OwnedPair> owned = path.empty() ? std::vector<OwnedPair>{{text, "", false}} : read_pairs(path, json_lines);
  std::vector<BatchText> texts;
  for (const OwnedPair& pair : owned) {
    texts.push_back({pair.first, {}});
    if (pair.is_pair) texts.back().second = pair.second;
  }
  for (const BatchEncoding& e : encode_batch(tokenizer, texts, options)) fmt::print("{}\n", as_json(e));
  return 0;
}

}  // namespace rhetor
