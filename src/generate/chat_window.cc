#include "generate/chat_window.h"

#include <algorithm>

#include "base/error.h"

namespace rhetor {

ChatWindow::ChatWindow(const LanguageModel& model)
    : tokenizer_(model.tokenizer()), template_(model.chat_template()), context_(model.config().context) {
  if (!tokenizer_) fail("the model '{}' has no tokenizer; generation needs one", model.name());
  specials_ = tokenizer_->specials();
  for (std::int64_t id = 0; id < tokenizer_->vocab_size(); ++id)
    longest_ = std::max(longest_, static_cast<std::int64_t>(tokenizer_->token_bytes(static_cast<TokenId>(id)).size()));
}

std::string ChatWindow::render(const std::vector<ChatMessage>& messages, bool open_answer) const {
  return template_->render(messages, open_answer, specials_);
}

Sampling ChatWindow::conversing(Sampling sampling) const {
  constexpr std::size_t kMostStops = 16;  // what Sampling::validate() allows
  for (const std::string& stop : template_->stop) {
    if (tokenizer_->special(stop) < 0 && sampling.stop.size() < kMostStops) sampling.stop.push_back(stop);
  }
  return sampling;
}

std::int64_t ChatWindow::tokens_at_least(std::size_t bytes) const { return static_cast<std::int64_t>(bytes) / longest_; }

std::vector<TokenId> ChatWindow::encode(std::string_view text, bool specials) const {
  if (const std::int64_t least = tokens_at_least(text.size()); least >= context_)
    fail(ErrorKind::resource, "the prompt has at least {} tokens, the model's context holds {}; shorten it", least, context_);
  auto ids = tokenizer_->encode(text, specials);
  if (static_cast<std::int64_t>(ids.size()) >= context_)
    fail(ErrorKind::resource, "the prompt has {} tokens, the model's context holds {}; shorten it", ids.size(), context_);
  return ids;
}

ChatWindow::Fit ChatWindow::fit(const std::vector<ChatMessage>& messages, std::int64_t answer) const {
  if (messages.empty()) render(messages, true);  // fails, saying what is missing
  const std::int64_t room = context_ - std::min(answer, context_ / 2);
  const std::size_t last = messages.size() - 1;
  std::size_t systems = 0;
  while (systems < last && messages[systems].role == "system") ++systems;
  // Special tokens part the text, so a conversation's tokens are those of its messages, one after the other.
  const auto size = [&](std::size_t i) {
    const std::int64_t least = tokens_at_least(messages[i].content.size());
    return least >= context_ ? least : static_cast<std::int64_t>(tokenizer_->encode(render({messages[i]}, false), true).size());
  };
  std::int64_t total = size(last) + static_cast<std::int64_t>(tokenizer_->encode(template_->open, true).size());
  for (std::size_t i = 0; i < systems; ++i) total += size(i);
  const auto refuse = [&] {
    fail(ErrorKind::resource, "{} {} tokens, the model's context holds {}; shorten {}",
         systems > 0 ? "the system message and the last message together have" : "the last message has", total, context_,
         systems > 0 ? "them" : "it");
  };
  if (total >= context_) refuse();
  std::size_t begin = last;
  while (begin > systems) {
    const std::int64_t more = size(begin - 1);
    if (total + more > room) break;
    total += more;
    --begin;
  }
  // A window that was cut begins with a question: an answer whose question is gone would mislead.
  if (begin > systems) {
    while (begin < last && messages[begin].role != "user") ++begin;
  }
  for (;; ++begin) {
    std::vector<ChatMessage> window(messages.begin(), messages.begin() + static_cast<std::ptrdiff_t>(systems));
    window.insert(window.end(), messages.begin() + static_cast<std::ptrdiff_t>(begin), messages.end());
    Fit out{.tokens = tokenizer_->encode(render(window, true), true), .dropped = begin - systems};
    total = static_cast<std::int64_t>(out.tokens.size());
    if (total < context_) return out;
    // A tokenizer without our special tokens may count a little differently.
    if (begin == last) refuse();
  }
}

}  // namespace rhetor
