#include "generate/cache_rows.h"

#include <algorithm>

#include "base/error.h"

namespace rhetor {
namespace {

// The most prompt tokens of one step. Fixed, not chosen by load: the same prompt goes through the same executables alone or in
// company.
constexpr std::int64_t kPrefillChunk = 256;

// The first `positions` of row `from_row` into row `to_row`; both caches are [rows,capacity,G,D].
void copy_positions(const StateStore& from, const std::string& name, std::int64_t from_row, StateStore& to, std::int64_t to_row,
                    std::int64_t positions) {
  const Type& type = from.type(name);
  const std::uint64_t row = type.bytes() / static_cast<std::uint64_t>(type.shape[0]);
  const std::uint64_t position = row / static_cast<std::uint64_t>(type.shape[1]);
  StateStore::copy(from, name, static_cast<std::uint64_t>(from_row) * row, to, name, static_cast<std::uint64_t>(to_row) * row,
                   position * static_cast<std::uint64_t>(positions));
}

}  // namespace

CacheRows::CacheRows(const LanguageModel& model, std::int64_t wanted) : model_(model) {
  const auto batches = model.decode_batches();
  check(!batches.empty(), "a language model has batch sizes");
  slots_ = batches.back();
  for (auto it = batches.rbegin(); it != batches.rend(); ++it) {
    if (*it >= wanted) slots_ = *it;
  }
  slot_states_ = slots_ == 1 ? row_states_ : std::make_shared<StateStore>();
}

std::int64_t CacheRows::bucket_for(std::int64_t left) const {
  return left == 1 ? 1 : model_.prefill_bucket(std::min(left, kPrefillChunk));
}

void CacheRows::prepare() {
  prefill_session(1);
  for (std::int64_t left = 2; left <= std::min(kPrefillChunk, model_.config().context);) {
    const std::int64_t bucket = bucket_for(left);
    prefill_session(bucket);
    left = std::max(left, bucket) + 1;
  }
  for (const std::int64_t batch : model_.decode_batches()) {
    if (batch <= slots_) decode_session(batch);
  }
}

Session& CacheRows::prefill_session(std::int64_t bucket) {
  auto& session = prefill_[bucket];
  if (!session) session = std::make_unique<Session>(model_.cached(1, bucket), row_states_);
  return *session;
}

Session& CacheRows::decode_session(std::int64_t batch) {
  if (slots_ == 1) return prefill_session(1);
  auto& session = decode_[batch];
  if (session) return *session;
  if (batch == slots_) {
    session = std::make_unique<Session>(model_.cached(batch, 1), slot_states_);
    return *session;
  }
  decode_session(slots_);  // it makes the caches
  auto first_rows = std::make_shared<StateStore>();
  for (const std::string& name : slot_states_->names()) first_rows->share_rows(name, *slot_states_, 0, batch);
  session = std::make_unique<Session>(model_.cached(batch, 1), std::move(first_rows));
  return *session;
}

bool CacheRows::prefill(const std::vector<TokenId>& prompt) {
  if (prompt != prompt_) prompt_ = prompt, read_ = 0;
  const std::int64_t left = static_cast<std::int64_t>(prompt.size()) - read_;
  if (left == 0) return true;
  const std::int64_t bucket = bucket_for(left), count = std::min(left, bucket);
  Session& session = prefill_session(bucket);
  auto tokens = session.input("tokens").data<std::int32_t>();
  std::fill(tokens.begin(), tokens.end(), 0);  // padding: its keys are overwritten before anything can see them
  std::copy_n(prompt.begin() + read_, count, tokens.begin());
  session.input("positions").data<std::int32_t>()[0] = static_cast<std::int32_t>(read_);
  session.input("last").data<std::int32_t>()[0] = static_cast<std::int32_t>(count - 1);
  session.run();
  read_ += count;
  if (count < left) return false;
  const auto logits = session.output("logits").data<float>();
  prompt_logits_.assign(logits.begin(), logits.end());
  return true;
}

void CacheRows::place(std::int64_t slot) {
  if (slots_ == 1) return;
  for (const std::string& name : row_states_->names()) {
    Type type = row_states_->type(name);   // slots get their caches with the first sequence, not with the first decode step
    type.shape.set_dim(0, Dim{slots_, type.shape.dim(0).name});
    slot_states_->declare(name, type);
    copy_positions(*row_states_, name, 0, *slot_states_, slot, read_);
  }
}

void CacheRows::copy(std::int64_t from, std::int64_t to, std::int64_t positions) {
  for (const std::string& name : slot_states_->names()) copy_positions(*slot_states_, name, from, *slot_states_, to, positions);
}

std::vector<std::span<const float>> CacheRows::decode(std::span<const Feed> feeds) {
  std::int64_t batch = slots_;
  for (const std::int64_t size : model_.decode_batches()) {
    if (size >= static_cast<std::int64_t>(feeds.size())) batch = std::min(batch, size);
  }
  Session& session = decode_session(batch);
  auto tokens = session.input("tokens").data<std::int32_t>();
  auto positions = session.input("positions").data<std::int32_t>();
  auto last = session.input("last").data<std::int32_t>();
  for (std::size_t i = 0; i < static_cast<std::size_t>(batch); ++i) {
    // A row nobody uses computes an idle token at position 0; the next sequence to join overwrites it.
    const Feed feed = i < feeds.size() ? feeds[i] : Feed{};
    tokens[i] = feed.token;
    positions[i] = static_cast<std::int32_t>(feed.position);
    last[i] = 0;
  }
  session.run();
  const Tensor& logits = session.output("logits");
  const auto width = static_cast<std::size_t>(logits.shape().last());
  std::vector<std::span<const float>> out;
  for (std::size_t i = 0; i < feeds.size(); ++i) out.push_back(logits.data<float>().subspan(i * width, width));
  return out;
}

}  // namespace rhetor
