#include "generate/batch_engine.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <map>

#include "base/error.h"
#include "generate/stop_filter.h"

namespace rhetor {
namespace {

using Clock = std::chrono::steady_clock;
// The most prompt tokens of one step. Fixed, not chosen by load: the same prompt goes through the same executables alone or in company.
constexpr std::int64_t kPrefillChunk = 256;

double ms_between(Clock::time_point a, Clock::time_point b) { return std::chrono::duration<double, std::milli>(b - a).count(); }

// One sequence on its way from prompt to text.
struct Sequence {
  Sequence(BatchEngine::Id number, BatchRequest r, const TokenizerPtr& tokenizer)
      : id(number), request(std::move(r)), decoder(tokenizer), filter(request.sampling.stop), started(Clock::now()) {
    result.prompt_tokens = static_cast<std::int64_t>(request.prompt.size());
  }
  // Tokens whose keys and values are in the cache.
  std::int64_t cached = 0;
  BatchEngine::Id id;
  BatchRequest request;
  Generation result;
  StreamDecoder decoder;
  StopFilter filter;
  Clock::time_point started;
  bool done = false;
  std::exception_ptr error;

  TokenId newest() const { return result.tokens.empty() ? request.prompt.back() : result.tokens.back(); }
  void emit(const std::string& text) {
    if (text.empty()) return;
    result.text += text;
    if (request.on_text && !request.on_text(text) && !done) finish(FinishReason::cancelled);
  }
  void finish(FinishReason reason) {
    done = true;
    result.finish = reason;
  }
};
using SequencePtr = std::unique_ptr<Sequence>;

}  // namespace

struct BatchEngine::Impl {
  const LanguageModel& model;
  std::int64_t slot_count = 1, context = 0, vocab = 0;
  std::vector<TokenId> ends;       // <|end|>, <|endoftext|>
  std::vector<SequencePtr> slots;  // null: free
  std::deque<SequencePtr> queue;
  std::int64_t joining = -1;  // slot whose prompt is being prefilled
  Id next_id = 1;

  // With one slot prefill and decode share their cache. With more, prompts are prefilled in a cache of their own (batch 1, so the
  // result is that of a sequence alone) and copied into the slot's row.
  std::shared_ptr<StateStore> row_states = std::make_shared<StateStore>(), slot_states;
  std::map<std::int64_t, std::unique_ptr<Session>> prefill;  // by bucket
  std::map<std::int64_t, std::unique_ptr<Session>> decode;   // by batch; their caches are the first rows of slot_states

  Impl(const LanguageModel& m, std::int64_t wanted) : model(m), context(m.config().context), vocab(m.config().vocab) {
    const auto batches = model.decode_batches();
    check(!batches.empty(), "a language model has batch sizes");
    slot_count = batches.back();
    for (auto it = batches.rbegin(); it != batches.rend(); ++it) {
      if (*it >= wanted) slot_count = *it;
    }
    slots.resize(static_cast<std::size_t>(slot_count));
    slot_states = slot_count == 1 ? row_states : std::make_shared<StateStore>();
    if (const auto& tokenizer = model.tokenizer()) {
      vocab = std::min(vocab, tokenizer->vocab_size());
      for (const char* text : {"<|end|>", "<|endoftext|>"}) {
        if (const TokenId id = tokenizer->special(text); id >= 0) ends.push_back(id);
      }
    }
  }

  bool join();
  Session& prefill_session(std::int64_t bucket);
  Session& decode_session(std::int64_t batch);
  std::int64_t bucket_for(std::int64_t left) const { return left == 1 ? 1 : model.prefill_bucket(std::min(left, kPrefillChunk)); }
  void prefill_chunk();
  void decode_all();
  void accept(Sequence& sequence, std::span<const float> logits);
  void close(SequencePtr sequence);
  void copy_row(std::int64_t slot, std::int64_t rows);
};

BatchEngine::BatchEngine(const LanguageModel& model, std::int64_t slots) : impl_(std::make_unique<Impl>(model, slots)) {}
BatchEngine::~BatchEngine() = default;
std::int64_t BatchEngine::slots() const { return impl_->slot_count; }
std::int64_t BatchEngine::waiting() const { return static_cast<std::int64_t>(impl_->queue.size()); }
std::int64_t BatchEngine::running() const {
  return std::count_if(impl_->slots.begin(), impl_->slots.end(), [](const SequencePtr& s) { return s != nullptr; });
}

BatchEngine::Id BatchEngine::add(BatchRequest request) {
  Impl& e = *impl_;
  request.sampling.validate();
  const auto& tokenizer = e.model.tokenizer();
  if (!tokenizer) fail("the model '{}' has no tokenizer; generation needs one", e.model.name());
  if (request.prompt.empty()) {
    // Nothing to continue: begin a new document.
    if (const TokenId start = tokenizer->special("<|endoftext|>"); start >= 0)
      request.prompt.push_back(start);
    else
      fail("the prompt is empty and the tokenizer has no <|endoftext|> to begin with; give at least one token");
  }
  const auto length = static_cast<std::int64_t>(request.prompt.size());
  if (length > e.context) fail("the prompt has {} tokens, more than the model's context of {}; shorten it", length, e.context);
  for (const TokenId id : request.prompt) {
    if (id < 0 || id >= e.model.config().vocab)
      fail("the prompt holds the token id {}, outside the vocabulary of {}", id, e.model.config().vocab);
  }
  const Id id = e.next_id++;
  e.queue.push_back(std::make_unique<Sequence>(id, std::move(request), tokenizer));
  return id;
}

void BatchEngine::prepare() {
  Impl& e = *impl_;
  e.prefill_session(1);
  for (std::int64_t left = 2; left <= std::min(kPrefillChunk, e.context);) {
    const std::int64_t bucket = e.bucket_for(left);
    e.prefill_session(bucket);
    left = std::max(left, bucket) + 1;
  }
  for (const std::int64_t batch : e.model.decode_batches()) {
    if (batch <= e.slot_count) e.decode_session(batch);
  }
}

// Moves the next waiting sequence into a free slot; false if there is none of either.
bool BatchEngine::Impl::join() {
  if (queue.empty()) return false;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (slots[i]) continue;
    slots[i] = std::move(queue.front());
    queue.pop_front();
    joining = static_cast<std::int64_t>(i);
    return true;
  }
  return false;
}

Session& BatchEngine::Impl::prefill_session(std::int64_t bucket) {
  auto& session = prefill[bucket];
  if (!session) session = std::make_unique<Session>(model.cached(1, bucket), row_states);
  return *session;
}

Session& BatchEngine::Impl::decode_session(std::int64_t batch) {
  if (slot_count == 1) return prefill_session(1);
  auto& session = decode[batch];
  if (session) return *session;
  if (batch == slot_count) {
    session = std::make_unique<Session>(model.cached(batch, 1), slot_states);
    return *session;
  }
  decode_session(slot_count);  // it makes the caches
  auto first_rows = std::make_shared<StateStore>();
  for (const auto& [name, whole] : slot_states->all()) first_rows->set(name, whole.rows(0, batch));
  session = std::make_unique<Session>(model.cached(batch, 1), std::move(first_rows));
  return *session;
}

void BatchEngine::Impl::prefill_chunk() {
  Sequence& sequence = *slots[static_cast<std::size_t>(joining)];
  const auto& prompt = sequence.request.prompt;
  const std::int64_t left = static_cast<std::int64_t>(prompt.size()) - sequence.cached;
  const std::int64_t bucket = bucket_for(left), count = std::min(left, bucket);
  Session& session = prefill_session(bucket);
  auto tokens = session.input("tokens").data<std::int32_t>();
  std::fill(tokens.begin(), tokens.end(), 0);  // padding: its keys are overwritten before anything can see them
  std::copy_n(prompt.begin() + sequence.cached, count, tokens.begin());
  session.input("positions").data<std::int32_t>()[0] = static_cast<std::int32_t>(sequence.cached);
  session.input("last").data<std::int32_t>()[0] = static_cast<std::int32_t>(count - 1);
  session.run();
  sequence.cached += count;
  if (sequence.cached < static_cast<std::int64_t>(prompt.size())) return;
  copy_row(joining, sequence.cached);
  const Tensor& logits = session.output("logits");
  joining = -1;
  accept(sequence, logits.data<float>());
}

// The first `rows` positions of the prefilled cache into the slot's row.
void BatchEngine::Impl::copy_row(std::int64_t slot, std::int64_t rows) {
  if (slot_count == 1) return;
  for (const auto& [name, from] : row_states->all()) {
    Type type = from.type();
    const std::size_t position_bytes = type.bytes() / static_cast<std::size_t>(type.shape[1]);
    type.shape.set_dim(0, Dim{slot_count, type.shape.dim(0).name});
    Tensor& to = slot_states->get(name, type);
    std::memcpy(static_cast<char*>(to.raw()) + static_cast<std::size_t>(slot) * from.bytes(), from.raw(),
                position_bytes * static_cast<std::size_t>(rows));
  }
}

void BatchEngine::Impl::decode_all() {
  const auto active = [this](std::size_t i) { return slots[i] && static_cast<std::int64_t>(i) != joining; };
  std::size_t covered = slots.size();
  while (covered > 0 && !active(covered - 1)) --covered;
  if (covered == 0) return;
  std::int64_t batch = slot_count;
  for (const std::int64_t size : model.decode_batches()) {
    if (size >= static_cast<std::int64_t>(covered)) batch = std::min(batch, size);
  }
  Session& session = decode_session(batch);
  auto tokens = session.input("tokens").data<std::int32_t>();
  auto positions = session.input("positions").data<std::int32_t>();
  auto last = session.input("last").data<std::int32_t>();
  const auto count = static_cast<std::size_t>(batch);
  for (std::size_t i = 0; i < count; ++i) {
    // A free slot computes an idle token at position 0; the next sequence to join overwrites it.
    tokens[i] = active(i) ? slots[i]->newest() : 0;
    positions[i] = static_cast<std::int32_t>(active(i) ? slots[i]->cached : 0);
    last[i] = 0;
  }
  session.run();
  const Tensor& logits = session.output("logits");
  const auto all = logits.data<float>();
  const auto width = static_cast<std::size_t>(logits.shape().last());
  for (std::size_t i = 0; i < count; ++i) {
    if (!active(i)) continue;
    ++slots[i]->cached;
    accept(*slots[i], all.subspan(i * width, width));
  }
}

// Chooses the next token of a sequence from its logits and decides whether that ends it.
void BatchEngine::Impl::accept(Sequence& s, std::span<const float> logits) {
  const Sampling& sampling = s.request.sampling;
  const auto index = static_cast<std::uint64_t>(s.result.tokens.size());
  // A vocabulary may be padded beyond the tokenizer's: those ids mean nothing.
  TokenId id = 0;
  try {
    id = sample(logits.first(static_cast<std::size_t>(vocab)), sampling, index);
  } catch (...) {
    if (!s.request.on_error) throw;
    s.error = std::current_exception();
    return s.finish(FinishReason::cancelled);
  }
  if (index == 0) s.result.first_token_ms = ms_between(s.started, Clock::now());
  if (std::find(ends.begin(), ends.end(), id) != ends.end()) {
    s.finish(FinishReason::stop);
    return;
  }
  s.result.tokens.push_back(id);
  s.emit(s.filter.push(s.decoder.push(id)));
  if (s.done) return;
  if (s.filter.stopped()) {
    s.finish(FinishReason::stop);
  } else if (static_cast<std::int64_t>(s.result.tokens.size()) >= sampling.max_tokens || s.cached >= context) {
    s.finish(FinishReason::length);  // cached == context: the new token has no place left
  }
}

void BatchEngine::Impl::close(SequencePtr sequence) {
  Sequence& s = *sequence;
  if (s.error) return s.request.on_error(s.error);
  if (s.result.finish != FinishReason::cancelled && !s.filter.stopped()) {
    s.emit(s.filter.push(s.decoder.finish()));
    s.emit(s.filter.finish());
  }
  s.result.total_ms = ms_between(s.started, Clock::now());
  if (s.request.on_done) s.request.on_done(s.result);
}

bool BatchEngine::step() {
  Impl& e = *impl_;
  if (e.joining >= 0 || e.join()) e.prefill_chunk();
  const auto sweep = [&] {
    for (auto& slot : e.slots) {
      if (slot && slot->done) e.close(std::move(slot));
    }
  };
  sweep();
  e.decode_all();
  sweep();
  return running() > 0 || waiting() > 0;
}

void BatchEngine::cancel(Id id) {
  Impl& e = *impl_;
  for (std::size_t i = 0; i < e.slots.size(); ++i) {
    if (!e.slots[i] || e.slots[i]->id != id) continue;
    if (e.joining == static_cast<std::int64_t>(i)) e.joining = -1;
    e.slots[i]->finish(FinishReason::cancelled);
    e.close(std::move(e.slots[i]));
    return;
  }
  for (auto it = e.queue.begin(); it != e.queue.end(); ++it) {
    if ((*it)->id != id) continue;
    SequencePtr sequence = std::move(*it);
    e.queue.erase(it);
    sequence->finish(FinishReason::cancelled);
    e.close(std::move(sequence));
    return;
  }
}

}  // namespace rhetor
