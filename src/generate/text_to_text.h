// Answers of encoder-decoder models (T5): a text in, a text out, the likeliest token each time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "models/model.h"

namespace rhetor {

// True for the model folder of a t5; false for anything else, a plan file among them.
bool is_text_to_text(const std::filesystem::path& path);

// Used by one thread.
class TextToText {
 public:
  // Fails if the model is no t5 or has no tokenizer.
  explicit TextToText(ModelPtr model);
  // At most `max_tokens`, the end of text not among them. "<extra_id_0>", "<extra_id_1>", ... stand for the sentinels of span corruption in
  // both texts. There is no cache: every token costs a run of the model. Fails if the text is longer than the context.
  std::string answer(std::string_view text, std::int64_t max_tokens);
  std::vector<TokenId> encode(std::string_view text) const;
  std::string decode(const std::vector<TokenId>& ids) const;

 private:
  Session& session(std::int64_t seq, std::int64_t target_seq);
  ModelPtr model_;
  std::vector<TokenId> sentinels_;
  TokenId end_, start_;
  std::map<std::pair<std::int64_t, std::int64_t>, std::unique_ptr<Session>> sessions_;  // by the lengths they were compiled for
};

}  // namespace rhetor
