#include "generate/batch_engine.h"

#include <algorithm>
#include <chrono>
#include <deque>

#include "base/error.h"
#include "generate/answer.h"
#include "generate/beam_search.h"
#include "generate/cache_rows.h"
#include "generate/logprobs.h"
#include "text/token_roles.h"

namespace rhetor {
namespace {

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point start) { return std::chrono::duration<double, std::milli>(Clock::now() - start).count(); }

// One request, shared by its answers.
struct Job {
  BatchEngine::Id id;
  BatchRequest request;
  Clock::time_point started = Clock::now();
  std::int64_t next_answer = 0;   // those before it have joined

  bool beams() const { return request.sampling.beams > 1; }
  std::int64_t prompt_tokens() const { return static_cast<std::int64_t>(request.prompt.size()); }
  // False: the listener wants no more.
  bool tell(const TextPiece& piece) const {
    if (request.on_piece) return request.on_piece(piece);
    return !request.on_text || piece.text.empty() || request.on_text(piece.text);
  }
  void deliver(Generation& result) const {
    result.prompt_tokens = prompt_tokens();
    result.total_ms = ms_since(started);
    if (request.on_done) request.on_done(result);
  }
};
using JobPtr = std::shared_ptr<Job>;

// One answer on its way from prompt to text.
struct Sequence {
  Sequence(JobPtr j, const TokenizerPtr& tokenizer, std::int64_t index)
      : job(std::move(j)), answer(tokenizer, job->request.sampling, job->request.prompt) {
    answer.result.index = index;
  }
  JobPtr job;
  Answer answer;
  std::size_t told = 0;   // log-probabilities the listener has
  bool done = false;
  std::exception_ptr error;

  void emit(const std::string& text) {
    if (text.empty()) return;
    const auto& logprobs = answer.result.logprobs;
    const TextPiece piece{answer.result.index, text, std::span(logprobs).subspan(told)};
    told = logprobs.size();
    if (!job->tell(piece) && !done) finish(FinishReason::cancelled);
  }
  void finish(FinishReason reason) {
    done = true;
    answer.result.finish = reason;
  }
};

// A beam search and its slots: hypothesis h lives in slots[h]; the slots behind the open ones wait.
struct BeamGroup {
  JobPtr job;
  BeamSearch search;
  std::vector<std::int64_t> slots;
  double first_token_ms = 0;
  std::exception_ptr error;
};

struct Slot {
  std::unique_ptr<Sequence> sequence;
  std::shared_ptr<BeamGroup> group;
  std::int64_t cached = 0;   // tokens whose keys and values are in its row
  bool free() const { return !sequence && !group; }
};

}  // namespace

struct BatchEngine::Impl {
  const LanguageModel& model;
  CacheRows rows;
  std::int64_t context = 0, vocab = 0;
  std::vector<TokenId> ends;   // <|end|>, <|endoftext|>, the chat template's
  std::vector<Slot> slots;
  std::deque<JobPtr> queue;
  JobPtr joining;              // its prompt is being read, or is read and some of its answers wait for a slot
  Id next_id = 1;
  std::vector<float> buffer;   // adjusted logits

  Impl(const LanguageModel& m, std::int64_t wanted) : model(m), rows(m, wanted), context(m.config().context), vocab(m.config().vocab) {
    slots.resize(static_cast<std::size_t>(rows.slots()));
    if (const auto& tokenizer = model.tokenizer()) {
      vocab = std::min(vocab, tokenizer->vocab_size());
      std::vector<std::string> texts = model.chat_template()->stop;   // those of them that are special tokens
      texts.insert(texts.end(), {"<|end|>", "<|endoftext|>"});
      for (const std::string& text : texts) {
        if (const TokenId id = tokenizer->special(text); id >= 0) ends.push_back(id);
      }
      if (const TokenId id = token_for(*tokenizer, TokenRole::end_of_text); id >= 0) ends.push_back(id);
    }
  }

  std::vector<std::int64_t> free_slots() const;
  void join();
  void admit();
  void begin_search(const std::vector<std::int64_t>& own);
  void decode_all();
  void accept(Sequence& sequence, std::span<const float> logits, std::int64_t cached);
  void advance(BeamGroup& group, std::span<const std::span<const float>> logits);
  void sweep();
  void close(std::unique_ptr<Sequence> sequence);
  void close(const std::shared_ptr<BeamGroup>& group, FinishReason unfinished);
  void drop(const JobPtr& job);
};

BatchEngine::BatchEngine(const LanguageModel& model, std::int64_t slots) : impl_(std::make_unique<Impl>(model, slots)) {}
BatchEngine::~BatchEngine() = default;
std::int64_t BatchEngine::slots() const { return impl_->rows.slots(); }
std::int64_t BatchEngine::waiting() const { return static_cast<std::int64_t>(impl_->queue.size()); }
std::int64_t BatchEngine::running() const {
  const auto taken = std::count_if(impl_->slots.begin(), impl_->slots.end(), [](const Slot& s) { return !s.free(); });
  return taken + (impl_->joining ? 1 : 0);
}
void BatchEngine::prepare() { impl_->rows.prepare(); }

BatchEngine::Id BatchEngine::add(BatchRequest request) {
  Impl& e = *impl_;
  const Sampling& sampling = request.sampling;
  sampling.validate();
  const auto& tokenizer = e.model.tokenizer();
  if (!tokenizer) fail("the model '{}' has no tokenizer; generation needs one", e.model.name());
  if (request.prompt.empty()) {
    // Nothing to continue: begin a new document.
    if (const TokenId start = token_for(*tokenizer, TokenRole::begin); start >= 0)
      request.prompt.push_back(start);
    else
      fail("the prompt is empty and the tokenizer has no <|endoftext|> to begin with; give at least one token");
  }
  const auto length = static_cast<std::int64_t>(request.prompt.size());
  if (length > e.context) fail("the prompt has {} tokens, more than the model's context of {}; shorten it", length, e.context);
  if (const auto forced = static_cast<std::int64_t>(request.forced.size()); forced > 0) {
    check(sampling.n == 1 && sampling.beams == 1, "forced tokens make one answer");
    if (length + forced - 1 > e.context)
      fail("a prompt of {} tokens and a continuation of {} do not fit the model's context of {}; shorten one", length, forced, e.context);
  }
  for (const auto* tokens : {&request.prompt, &request.forced}) {
    for (const TokenId id : *tokens) {
      if (id < 0 || id >= e.model.config().vocab)
        fail("the prompt holds the token id {}, outside the vocabulary of {}", id, e.model.config().vocab);
    }
  }
  if (!sampling.logit_bias.empty() && sampling.logit_bias.rbegin()->first >= e.vocab)
    fail("logit_bias names the token {}, outside the vocabulary of {}", sampling.logit_bias.rbegin()->first, e.vocab);
  if (sampling.beams > 1 && sampling.beams > slots()) {
    fail("a beam search with {} beams needs a slot each; the model '{}' is opened with {} (a plan holds the batch sizes it was compiled for)",
         sampling.beams, e.model.name(), slots());
  }
  const Id id = e.next_id++;
  e.queue.push_back(std::make_shared<Job>(Job{id, std::move(request)}));
  return id;
}

std::vector<std::int64_t> BatchEngine::Impl::free_slots() const {
  std::vector<std::int64_t> out;
  for (std::size_t i = 0; i < slots.size(); ++i)
    if (slots[i].free()) out.push_back(static_cast<std::int64_t>(i));
  return out;
}

// Takes the next request if there is room for it, reads a chunk of its prompt and, once that is read, moves its answers into slots.
void BatchEngine::Impl::join() {
  if (!joining) {
    if (queue.empty()) return;
    const auto room = static_cast<std::int64_t>(free_slots().size());
    if (room < (queue.front()->beams() ? queue.front()->request.sampling.beams : 1)) return;
    joining = std::move(queue.front());
    queue.pop_front();
  }
  if (rows.prefill(joining->request.prompt)) admit();
}

void BatchEngine::Impl::admit() {
  const auto own = free_slots();
  const std::int64_t answers = joining->request.sampling.n;
  if (joining->beams()) return begin_search(own);
  for (std::size_t i = 0; i < own.size() && joining->next_answer < answers; ++i) {
    Slot& slot = slots[static_cast<std::size_t>(own[i])];
    rows.place(own[i]);
    slot.cached = joining->prompt_tokens();
    slot.sequence = std::make_unique<Sequence>(joining, model.tokenizer(), joining->next_answer++);
    accept(*slot.sequence, rows.prompt_logits(), slot.cached);
  }
  if (joining->next_answer >= answers) joining.reset();
}

void BatchEngine::Impl::begin_search(const std::vector<std::int64_t>& own) {
  const JobPtr job = std::move(joining);
  const Sampling& sampling = job->request.sampling;
  const std::int64_t longest = std::min(sampling.max_tokens, context - job->prompt_tokens() + 1);
  const auto group = std::make_shared<BeamGroup>(
      BeamGroup{job, BeamSearch(sampling, ends, longest, vocab, Answer(model.tokenizer(), sampling, job->request.prompt)), {}});
  group->slots.assign(own.begin(), own.begin() + sampling.beams);
  for (const std::int64_t i : group->slots) slots[static_cast<std::size_t>(i)].group = group;
  rows.place(group->slots[0]);
  slots[static_cast<std::size_t>(group->slots[0])].cached = job->prompt_tokens();
  const std::span<const float> logits = rows.prompt_logits();
  advance(*group, {&logits, 1});
  group->first_token_ms = ms_since(job->started);
}

// One step of a search: its hypotheses move to the slots of those they continue. The first to continue one stays where that is;
// the others take slots that are not continued and get a copy.
void BatchEngine::Impl::advance(BeamGroup& group, std::span<const std::span<const float>> logits) try {
  const auto parents = group.search.advance(logits);
  std::vector<std::int64_t> next(parents.size(), -1), unused = group.slots;
  for (std::size_t i = 0; i < parents.size(); ++i) {
    const std::int64_t slot = group.slots[static_cast<std::size_t>(parents[i])];
    if (std::erase(unused, slot) > 0) next[i] = slot;
  }
  for (std::size_t i = 0; i < parents.size(); ++i) {
    if (next[i] >= 0) continue;
    const std::int64_t from = group.slots[static_cast<std::size_t>(parents[i])];
    next[i] = unused.back();
    unused.pop_back();
    const std::int64_t cached = slots[static_cast<std::size_t>(from)].cached;
    rows.copy(from, next[i], cached);
    slots[static_cast<std::size_t>(next[i])].cached = cached;
  }
  next.insert(next.end(), unused.begin(), unused.end());
  group.slots = std::move(next);
} catch (...) {
  if (!group.job->request.on_error) throw;
  group.error = std::current_exception();
}

void BatchEngine::Impl::decode_all() {
  std::vector<CacheRows::Feed> feeds;
  const auto feed = [&](std::int64_t at, TokenId token) {
    const auto i = static_cast<std::size_t>(at);
    if (feeds.size() <= i) feeds.resize(i + 1);
    feeds[i] = {token, slots[i].cached++};
  };
  std::vector<std::shared_ptr<BeamGroup>> groups;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (slots[i].sequence) feed(static_cast<std::int64_t>(i), slots[i].sequence->answer.result.tokens.back());
    const auto& group = slots[i].group;
    if (!group || std::find(groups.begin(), groups.end(), group) != groups.end()) continue;
    groups.push_back(group);
    for (std::int64_t h = 0; h < group->search.open(); ++h) feed(group->slots[static_cast<std::size_t>(h)], group->search.newest(h));
  }
  if (feeds.empty()) return;
  const auto logits = rows.decode(feeds);
  for (std::size_t i = 0; i < feeds.size(); ++i) {
    if (slots[i].sequence) accept(*slots[i].sequence, logits[i], slots[i].cached);
  }
  for (const auto& group : groups) {
    std::vector<std::span<const float>> own;
    for (std::int64_t h = 0; h < group->search.open(); ++h) own.push_back(logits[static_cast<std::size_t>(group->slots[static_cast<std::size_t>(h)])]);
    advance(*group, own);
  }
}

// Chooses the next token of a sequence from its logits and decides whether that ends it.
void BatchEngine::Impl::accept(Sequence& s, std::span<const float> logits, std::int64_t cached) {
  const BatchRequest& request = s.job->request;
  const Sampling& sampling = request.sampling;
  Generation& result = s.answer.result;
  const std::size_t index = result.tokens.size();
  TokenId id = 0;
  try {
    // A vocabulary may be padded beyond the tokenizer's: those ids mean nothing.
    const auto known = logits.first(static_cast<std::size_t>(vocab));
    if (request.forced.empty()) id = sample(s.answer.penalties.apply(known, sampling, buffer), sampling, index, result.index);
    else require_finite(known, index), id = request.forced[index];
  } catch (...) {
    if (!request.on_error) throw;
    s.error = std::current_exception();
    return s.finish(FinishReason::cancelled);
  }
  if (index == 0) result.first_token_ms = ms_since(s.job->started);
  if (request.forced.empty() && std::find(ends.begin(), ends.end(), id) != ends.end()) return s.finish(FinishReason::stop);
  if (sampling.logprobs) result.logprobs.push_back(token_logprob(logits, id, sampling.top_logprobs, vocab));
  if (!request.forced.empty()) {
    result.tokens.push_back(id);
    if (index + 1 == request.forced.size()) s.finish(FinishReason::length);
    return;
  }
  s.emit(s.answer.take(id));
  if (s.done) return;
  if (s.answer.stopped()) {
    s.finish(FinishReason::stop);
  } else if (static_cast<std::int64_t>(result.tokens.size()) >= sampling.max_tokens || cached >= context) {
    s.finish(FinishReason::length);  // cached == context: the new token has no place left
  }
}

void BatchEngine::Impl::close(std::unique_ptr<Sequence> sequence) {
  Sequence& s = *sequence;
  if (s.error) return s.job->request.on_error(s.error);
  if (s.answer.result.finish != FinishReason::cancelled && !s.answer.stopped()) s.emit(s.answer.rest());
  s.job->deliver(s.answer.result);
}

void BatchEngine::Impl::close(const std::shared_ptr<BeamGroup>& group, FinishReason unfinished) {
  for (Slot& slot : slots) {
    if (slot.group == group) slot.group.reset();
  }
  const Job& job = *group->job;
  if (group->error) return job.request.on_error(group->error);
  auto best = group->search.take_best();
  while (static_cast<std::int64_t>(best.size()) < job.request.sampling.n) {
    best.push_back({.index = static_cast<std::int64_t>(best.size()), .finish = unfinished});
  }
  for (Generation& result : best) {
    result.first_token_ms = group->first_token_ms;
    const bool wanted = unfinished == FinishReason::cancelled || job.tell({result.index, result.text, result.logprobs});
    if (!wanted || unfinished == FinishReason::cancelled) result.finish = FinishReason::cancelled;
    job.deliver(result);
  }
}

void BatchEngine::Impl::sweep() {
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (slots[i].sequence && slots[i].sequence->done) close(std::move(slots[i].sequence));
    else if (const auto group = slots[i].group; group && (group->error || group->search.done())) close(group, FinishReason::length);
  }
}

bool BatchEngine::step() {
  Impl& e = *impl_;
  e.join();
  e.sweep();
  e.decode_all();
  e.sweep();
  return running() > 0 || waiting() > 0;
}

// Those of a job's answers that have not joined.
void BatchEngine::Impl::drop(const JobPtr& job) {
  for (; job->next_answer < job->request.sampling.n; ++job->next_answer) {
    Generation result{.index = job->next_answer, .finish = FinishReason::cancelled};
    job->deliver(result);
  }
}

void BatchEngine::cancel(Id id) {
  Impl& e = *impl_;
  for (std::size_t i = 0; i < e.slots.size(); ++i) {
    Slot& slot = e.slots[i];
    if (slot.sequence && slot.sequence->job->id == id) {
      slot.sequence->finish(FinishReason::cancelled);
      e.close(std::move(slot.sequence));
    } else if (const auto group = slot.group; group && group->job->id == id) {
      e.close(group, FinishReason::cancelled);
    }
  }
  if (e.joining && e.joining->id == id) e.drop(std::exchange(e.joining, nullptr));
  const auto waiting = std::find_if(e.queue.begin(), e.queue.end(), [id](const JobPtr& job) { return job->id == id; });
  if (waiting == e.queue.end()) return;
  const JobPtr job = *waiting;
  e.queue.erase(waiting);
  e.drop(job);
}

}  // namespace rhetor
