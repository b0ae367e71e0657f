// Masked-language rows without padding.
#include <algorithm>

#include "base/error.h"
#include "data/batches.h"

namespace rhetor {

FlatMlmBatch flat_mlm_batch(const FlatMlmShape& shape, std::int64_t parts, TokenId pad,
                            const std::function<void(std::int64_t text, std::int64_t row, std::int64_t room, MlmBatch& out)>& make) {
  const std::int64_t n = shape.texts, s = shape.seq, t = shape.tokens, most = shape.predictions();
  const auto empty = [&](Shape size, std::int32_t value) {
    Tensor out = Tensor::uninitialized({DType::i32, size});
    auto data = out.data<std::int32_t>();
    std::fill(data.begin(), data.end(), value);
    return out;
  };
  const Shape tokens{parts * t}, texts{parts * n}, predictions{parts * most};
  FlatMlmBatch out{empty(tokens, pad), empty(tokens, 0), empty(tokens, 0), empty(tokens, 0), empty(Shape{parts * n, s}, 0),
                   empty(texts, 0), empty(texts, 0), empty(texts, -100), empty(predictions, 0), empty(predictions, -100)};
  MlmBatch one = empty_mlm_batch(1, s);
  const auto in = [](Tensor& tensor, std::int64_t at) -> std::int32_t& { return tensor.data<std::int32_t>()[static_cast<std::size_t>(at)]; };
  for (std::int64_t part = 0; part < parts; ++part) {
    std::int64_t used = 0, asked = 0;
    for (std::int64_t text = 0; text < n && t - used >= MlmRows::kLeastRoom; ++text) {
      const std::int64_t slot = part * n + text;
      make(slot, 0, std::min(s, t - used), one);
      const std::int64_t length = in(one.lengths, 0);
      check(length <= t - used, "a text fits the room it was given");
      in(out.lengths, slot) = static_cast<std::int32_t>(length);
      in(out.first_tokens, slot) = static_cast<std::int32_t>(used);
      in(out.next_sentence, slot) = in(one.next_sentence, 0);
      for (std::int64_t i = 0; i < length; ++i, ++used) {
        const std::int64_t at = part * t + used;
        in(out.tokens, at) = in(one.inputs, i);
        in(out.segments, at) = in(one.segments, i);
        in(out.positions, at) = static_cast<std::int32_t>(i);
        in(out.token_places, at) = static_cast<std::int32_t>(text * s + i);
        in(out.place_tokens, slot * s + i) = static_cast<std::int32_t>(used);
        // More than `most` there can only be if many texts are shorter than their one masked word; the last are not asked for then.
        if (in(one.targets, i) == -100 || asked == most) continue;
        in(out.masked_positions, part * most + asked) = static_cast<std::int32_t>(used);
        in(out.targets, part * most + asked++) = in(one.targets, i);
      }
    }
    out.used += used;
    // What is left over stands at the place of token 0 and is seen by nobody.
  }
  return out;
}

}  // namespace rhetor
