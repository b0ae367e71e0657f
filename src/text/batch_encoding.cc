#include "text/batch_encoding.h"

#include <algorithm>

#include "base/error.h"
#include "text/over_texts.h"
#include "text/token_roles.h"

namespace rhetor {
namespace {

void pad(BatchEncoding& e, std::size_t length, const Padding& padding) {
  for (BatchEncoding& window : e.overflow) pad(window, length, padding);
  if (e.encoding.ids.size() >= length) return;
  const std::size_t missing = length - e.encoding.ids.size();
  const auto put = [&](auto& list, auto value) { list.insert(padding.left ? list.begin() : list.end(), missing, value); };
  put(e.encoding.ids, padding.id);
  put(e.encoding.segments, padding.segment);
  put(e.encoding.ranges, Encoding::Range{});
  put(e.encoding.added, std::uint8_t{1});
  put(e.attention, std::uint8_t{0});
}

}  // namespace

BatchOptions batch_options(const Tokenizer& tokenizer) {
  BatchOptions out;
  if (const Truncation* truncation = tokenizer.truncation()) out.truncation = *truncation;
  if (const Padding* padding = tokenizer.padding()) out.padding = *padding;
  return out;
}

Padding default_padding(const Tokenizer& tokenizer) {
  Padding out;
  out.id = token_for(tokenizer, TokenRole::pad);
  if (out.id < 0) fail("the vocabulary has no padding token ([PAD], <pad>, <|pad|>); say which token to pad with");
  out.token = tokenizer.token_bytes(out.id);
  return out;
}

std::vector<BatchEncoding> encode_batch(const Tokenizer& tokenizer, std::span<const BatchText> texts, const BatchOptions& options) {
  std::vector<BatchEncoding> out(texts.size());
  const WindowOptions windows{.framed = options.framed, .specials = options.specials,
                              .truncation = options.truncation ? &*options.truncation : nullptr};
  over_texts(texts.size(), [&](std::size_t i) {
    const BatchText& pair = texts[i];
    auto encodings = tokenizer.encode_windows(pair.first, pair.second ? &*pair.second : nullptr, windows);
    for (std::size_t k = 0; k < encodings.size(); ++k) {
      BatchEncoding& e = k == 0 ? out[i] : out[i].overflow.emplace_back();
      e.attention.assign(encodings[k].ids.size(), 1);
      e.encoding = std::move(encodings[k]);
    }
  });
  if (!options.padding) return out;
  auto length = static_cast<std::size_t>(options.padding->length);
  for (const BatchEncoding& e : out) length = options.padding->length > 0 ? length : std::max(length, e.encoding.ids.size());
  const auto multiple = static_cast<std::size_t>(options.padding->multiple_of);
  if (multiple > 1) length = (length + multiple - 1) / multiple * multiple;
  over_texts(out.size(), [&](std::size_t i) { pad(out[i], length, *options.padding); });
  return out;
}

}  // namespace rhetor
