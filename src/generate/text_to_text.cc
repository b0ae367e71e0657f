#include "generate/text_to_text.h"

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "base/file.h"
#include "data/span_corruption.h"
#include "text/token_roles.h"

namespace rhetor {
namespace {

constexpr std::string_view kSentinel = "<extra_id_";

// Lengths that graphs are compiled for: 16, 32, 64, ...
std::int64_t bucket(std::int64_t length, std::int64_t most) {
  std::int64_t size = 16;
  while (size < length) size *= 2;
  return std::min(size, most);
}

}  // namespace

bool is_text_to_text(const std::filesystem::path& path) {
  const std::filesystem::path config = path / "config.json";
  std::error_code ignored;
  return std::filesystem::is_regular_file(config, ignored) &&
         ModelConfig::from_json(read_file(config, 1 << 20), "'" + config.string() + "'").family == "t5";
}

TextToText::TextToText(ModelPtr model) : model_(std::move(model)) {
  if (model_->config.family != "t5") fail("'{}' is a {} model; only t5 models turn a text into another", model_->name, model_->config.family);
  if (!model_->tokenizer) fail("the model '{}' has no tokenizer.json", model_->name);
  sentinels_ = sentinel_ids(*model_->tokenizer);
  end_ = token_for(*model_->tokenizer, TokenRole::end_of_text);
  start_ = decoder_start(*model_->tokenizer);
  if (end_ < 0 || start_ < 0) fail("the tokenizer of '{}' has no end-of-text token (<|endoftext|>, </s>)", model_->name);
}

std::vector<TokenId> TextToText::encode(std::string_view text) const {
  std::vector<TokenId> out;
  const auto put = [&](std::string_view part) {
    const std::vector<TokenId> ids = model_->tokenizer->encode(part);
    out.insert(out.end(), ids.begin(), ids.end());
  };
  std::size_t done = 0;
  for (std::size_t at = text.find(kSentinel); at != std::string_view::npos; at = text.find(kSentinel, at + 1)) {
    std::size_t number = 0;
    const char *first = text.data() + at + kSentinel.size(), *last = text.data() + text.size();
    const auto parsed = std::from_chars(first, last, number);
    if (parsed.ec != std::errc() || parsed.ptr == last || *parsed.ptr != '>' || number >= sentinels_.size()) continue;
    put(text.substr(done, at - done));
    out.push_back(sentinels_[number]);
    done = static_cast<std::size_t>(parsed.ptr - text.data()) + 1;
  }
  put(text.substr(done));
  out.push_back(end_);
  return out;
}

std::string TextToText::decode(const std::vector<TokenId>& ids) const {
  std::string out;
  std::vector<TokenId> run;
  const auto flush = [&] {
    out += model_->tokenizer->decode(run);
    run.clear();
  };
  for (const TokenId id : ids) {
    const auto found = std::find(sentinels_.begin(), sentinels_.end(), id);
    if (found == sentinels_.end()) {
      if (id < model_->tokenizer->vocab_size()) run.push_back(id);
      continue;
    }
    flush();
    out += fmt::format("{}{}>", kSentinel, found - sentinels_.begin());
  }
  flush();
  return out;
}

Session& TextToText::session(std::int64_t seq, std::int64_t target_seq) {
  auto& found = sessions_[{seq, target_seq}];
  if (!found) {
    BuildSpec spec;
    spec.task = BuildSpec::Task::logits;
    spec.seq = seq;
    spec.target_seq = target_seq;
    found = std::make_unique<Session>(compile(build_model(model_->config, spec), model_->weights, compile_options_for(model_->config)));
  }
  return *found;
}

std::string TextToText::answer(std::string_view text, std::int64_t max_tokens) {
  const std::vector<TokenId> ids = encode(text);
  const auto count = static_cast<std::int64_t>(ids.size());
  if (count > model_->config.context)
    fail("the text has {} tokens with its end, more than the {} the model '{}' reads; shorten it", count, model_->config.context, model_->name);
  const std::int64_t seq = bucket(count, model_->config.context);
  std::vector<TokenId> out;
  std::vector<TokenId> given{start_};
  while (static_cast<std::int64_t>(out.size()) < max_tokens) {
    const auto place = static_cast<std::int64_t>(given.size()) - 1;
    Session& run = session(seq, bucket(place + 1, std::max<std::int64_t>(16, max_tokens)));
    Tensor &tokens = run.input("tokens"), &decoder = run.input("decoder_tokens");
    std::fill(tokens.data<std::int32_t>().begin(), tokens.data<std::int32_t>().end(), start_);
    std::copy(ids.begin(), ids.end(), tokens.data<std::int32_t>().begin());
    std::fill(decoder.data<std::int32_t>().begin(), decoder.data<std::int32_t>().end(), start_);
    std::copy(given.begin(), given.end(), decoder.data<std::int32_t>().begin());
    run.input("lengths").data<std::int32_t>()[0] = static_cast<std::int32_t>(count);
    run.run();
    const auto row = run.output("logits").data<float>().subspan(static_cast<std::size_t>(place * model_->config.vocab),
                                                               static_cast<std::size_t>(model_->config.vocab));
    const auto best = static_cast<TokenId>(std::max_element(row.begin(), row.end()) - row.begin());
    if (best == end_) break;
    out.push_back(best);
    given.push_back(best);
  }
  return decode(out);
}

}  // namespace rhetor
