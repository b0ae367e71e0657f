#include "serve/completion_worker.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "cuda/cuda.h"
#include "generate/batch_engine.h"
#include "generate/chat_window.h"
#include "serve/completion_job.h"

namespace rhetor {

struct CompletionWorker::Impl : WorkerFrame {
  Impl(LanguageModelPtr m, std::string n, WorkerLimits l, Metrics& all)
      : model(std::move(m)),
        name(std::move(n)),
        limits(l),
        metrics(all, {{"model", name}, {"task", "generate"}}),
        window(*model),
        engine(new_engine(limits.slots)),
        slots(static_cast<int>(engine->slots())) {}

  const LanguageModelPtr model;
  const std::string name;
  const WorkerLimits limits;
  ModelMetrics metrics;
  const ChatWindow window;

  std::deque<CompletionJobPtr> queue;  // guarded by mutex
  int busy = 0;                        // guarded by mutex: slots the engine thread has filled, as the others may see it

  // The engine thread's own.
  std::unique_ptr<BatchEngine> engine;
  std::vector<CompletionJobPtr> jobs;  // in the engine
  std::atomic<int> slots;              // fewer after the memory ran out
  std::thread thread;

  std::exception_ptr short_of_memory;  // a sequence's failure in this step
  // Compiled, with as many slots as there is memory for.
  std::unique_ptr<BatchEngine> new_engine(int most) const;
  void recover(const std::exception& error);
  void tokenise(CompletionJob& job) const;
  void work();
  bool admit(std::vector<CompletionJobPtr>& joining);
  bool give_up(CompletionJob& job, ServeClock::time_point now, bool broken_off);
  void join(const CompletionJobPtr& job);
  void step();
  void leave();
};

std::unique_ptr<BatchEngine> CompletionWorker::Impl::new_engine(int most) const {
  while (true) {
    try {
      auto made = std::make_unique<BatchEngine>(*model, most);
      made->prepare();
      return made;
    } catch (const std::exception& error) {
      if (!is_out_of_memory(error) || most <= 1) throw;
      log_warning("'{}' has no memory for {} answers at once ({}); it tries {}", name, most, error.what(), most / 2);
      most /= 2;
    }
  }
}

// Everything that can be refused is refused here, before it takes a place in the queue.
void CompletionWorker::Impl::tokenise(CompletionJob& job) const {
  const CompletionRequest& r = job.request;
  const std::int64_t most = limits.max_output_tokens;
  if (most > 0 && r.max_tokens_given && r.sampling.max_tokens > most)
    fail("'max_tokens' is {}, this service gives at most {} a request", r.sampling.max_tokens, most);
  if (most > 0) job.request.sampling.max_tokens = std::min(r.sampling.max_tokens, most);
  if (r.chat) {
    job.prompts.push_back(window.fit(r.messages, r.sampling.max_tokens).tokens);
    job.request.sampling = window.conversing(std::move(job.request.sampling));
  }
  for (const std::string& text : r.prompts) job.prompts.push_back(window.encode(text));
  for (const auto& tokens : r.token_prompts) {
    if (const auto context = model->config().context; static_cast<std::int64_t>(tokens.size()) >= context)
      fail(ErrorKind::resource, "the prompt has {} tokens, the model's context holds {}; shorten it", tokens.size(), context);
    job.prompts.push_back(tokens);
  }
  if (r.echo) {
    for (const auto& tokens : r.token_prompts) job.request.prompts.push_back(model->tokenizer()->decode(tokens, true));
  }
  std::int64_t tokens = 0;
  for (const auto& prompt : job.prompts) tokens += static_cast<std::int64_t>(prompt.size());
  if (limits.max_input_tokens > 0 && tokens > limits.max_input_tokens)
    fail(ErrorKind::resource, "the request has {} tokens, this service reads at most {} a request", tokens,
         limits.max_input_tokens);
}

void CompletionWorker::submit(CompletionRequest request, ResponderPtr reply, const std::string& key) {
  Impl& w = *impl_;
  {
    std::lock_guard lock(w.mutex);
    if (w.draining) return send_error(reply, 503, "the service is stopping", "server_error");
    const auto accepted = w.running + static_cast<int>(w.queue.size());
    if (accepted >= w.slots + w.limits.max_queue) return send_queue_full(reply, accepted - w.running, w.slots, w.mean_seconds);
  }
  const auto job = std::make_shared<CompletionJob>();
  job->request = std::move(request);
  try {
    w.tokenise(*job);
  } catch (const Error& error) {
    return send_error(reply, 400, error.what(), "invalid_request_error",
                      error.kind() == ErrorKind::resource ? "context_length_exceeded" : "");
  }
  job->id = new_reply_id(w.name, job->request.chat);
  job->note = {.model = w.name, .key = key};
  job->tokenizer = w.model->tokenizer();
  job->accepted = ServeClock::now();
  job->deadline = deadline_for(job->accepted, job->request.timeout_s, w.limits);
  job->reply = std::move(reply);
  {
    std::lock_guard lock(w.mutex);
    if (w.draining) return job->error(503, "the service is stopping", "server_error");
    w.queue.push_back(job);  // this thread alone adds to the queue: it has not grown since it was looked at
  }
  w.changed.notify_all();
}

// ---- the engine thread ----

void CompletionWorker::Impl::work() {
  std::vector<CompletionJobPtr> joining;
  while (admit(joining)) {
    for (const CompletionJobPtr& job : joining) join(job);
    joining.clear();
    step();
  }
}

// Waits for something to do and takes what there is room for; false when the worker is to end and nothing is left.
bool CompletionWorker::Impl::admit(std::vector<CompletionJobPtr>& joining) {
  std::unique_lock lock(mutex);
  running = static_cast<int>(jobs.size());
  busy = static_cast<int>(std::min<std::int64_t>(slots.load(), engine->running()));
  changed.wait(lock, [this] { return draining || !queue.empty() || !jobs.empty(); });
  const auto now = ServeClock::now();  // once: a thousand requests may wait
  std::erase_if(queue, [&](const CompletionJobPtr& job) { return give_up(*job, now, breaking); });
  for (const CompletionJobPtr& job : jobs) give_up(*job, now, breaking);
  leave();
  // A job may bring several answers: what does not fit waits inside the engine, and no further job joins meanwhile.
  while (!queue.empty() && engine->waiting() == 0 && static_cast<std::int64_t>(jobs.size() + joining.size()) < slots) {
    joining.push_back(std::move(queue.front()));
    queue.pop_front();
  }
  running = static_cast<int>(jobs.size() + joining.size());
  busy = static_cast<int>(std::min<std::int64_t>(slots.load(), engine->running()));
  return !draining || running > 0 || !queue.empty();
}

// True if there is no point in going on with a job: it is answered, if somebody is there to hear it, or is about to be.
bool CompletionWorker::Impl::give_up(CompletionJob& job, ServeClock::time_point now, bool broken_off) {
  if (job.reply->closed()) {
    if (!job.finished) metrics.dropped.add();
    job.finished = true;
  } else if (broken_off) {
    job.error(503, "the service is stopping", "server_error");
  } else if (now > job.deadline) {
    // What there is of an answer is given; it is not there if the request waited all the time.
    job.late = true;
    for (const BatchEngine::Id sequence : job.sequences) {
      if (job.begun()) engine->cancel(sequence);
    }
    job.error(504, late_message(job.accepted, job.deadline), "server_error", "timeout");
  }
  return job.finished;
}

// Takes finished jobs out of the engine, with whatever of them is still in it.
void CompletionWorker::Impl::leave() {
  std::erase_if(jobs, [this](const CompletionJobPtr& job) {
    if (!job->finished) return false;
    for (const BatchEngine::Id sequence : job->sequences) engine->cancel(sequence);
    return true;
  });
}

void CompletionWorker::Impl::join(const CompletionJobPtr& job) {
  job->started = ServeClock::now();
  metrics.queue_seconds.observe(seconds_between(job->accepted, job->started));
  try {
    for (std::size_t i = 0; i < job->prompts.size(); ++i) {
      metrics.prompt_tokens.add(static_cast<double>(job->prompts[i].size()));
      job->sequences.push_back(engine->add({
          .prompt = std::move(job->prompts[i]),
          .sampling = job->request.sampling,
          .on_done = [this, job, i](const Generation& result) { job->done(i, result, metrics); },
          .on_error =
              [this, job](std::exception_ptr thrown) {
                try {
                  std::rethrow_exception(thrown);
                } catch (const std::exception& error) {
                  if (is_out_of_memory(error)) short_of_memory = thrown;
                  job->failed(error);
                }
              },
          .on_piece = [job, i](const TextPiece& piece) { return job->piece(i, piece); },
      }));
    }
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::invalid)
      job->error(400, error.what(), "invalid_request_error");
    else
      job->failed(error);
  } catch (const std::exception& error) {
    job->failed(error);
  }
  jobs.push_back(job);  // also one that failed: leave() takes its sequences out
}

// Out of memory, a lost GPU or a bug of ours: nobody's answer can be trusted to go on. The next requests begin afresh, in smaller batches if
// it was memory.
void CompletionWorker::Impl::recover(const std::exception& error) {
  for (const CompletionJobPtr& job : jobs) {
    job->failed(error);
    for (const BatchEngine::Id sequence : job->sequences) engine->cancel(sequence);
  }
  jobs.clear();
  if (!lost_device().empty()) return;  // nothing can be built any more; the program ends
  const int before = slots;
  engine.reset();  // what it holds is needed by the next one
  if (!is_out_of_memory(error) || before == 1) {
    engine = std::make_unique<BatchEngine>(*model, before);
    return;
  }
  try {
    engine = new_engine(before / 2);
  } catch (const std::exception&) {
    engine = std::make_unique<BatchEngine>(*model, 1);  // asks for memory at the next request, when there may be some
  }
  slots = static_cast<int>(engine->slots());
  log_warning("'{}' ran out of memory with {} answers at once ({}); from now on it computes {}", name, before, error.what(), slots.load());
}

void CompletionWorker::Impl::step() {
  if (const std::int64_t sequences = engine->running() + engine->waiting(); sequences > 0)
    metrics.batch.observe(static_cast<double>(std::min<std::int64_t>(slots.load(), sequences)));
  try {
    engine->step();
    if (short_of_memory) std::rethrow_exception(std::exchange(short_of_memory, nullptr));
  } catch (const std::exception& error) {
    recover(error);
  }
  for (const CompletionJobPtr& job : jobs) {
    if (job->finished) took(job->started);
  }
  leave();
}

// ---- public ----

CompletionWorker::CompletionWorker(LanguageModelPtr model, std::string name, WorkerLimits limits, Metrics& metrics)
    : impl_(std::make_unique<Impl>(std::move(model), std::move(name), limits, metrics)) {
  add_worker_gauges(metrics, impl_->metrics.labels, *this);
  impl_->thread = std::thread([impl = impl_.get()] { impl->work(); });
}

CompletionWorker::~CompletionWorker() {
  break_off();
  impl_->thread.join();
}

WorkerStatus CompletionWorker::status() const {
  std::lock_guard lock(impl_->mutex);
  return {
      .running = impl_->running, .waiting = static_cast<int>(impl_->queue.size()), .slots = impl_->slots, .busy = impl_->busy};
}

void CompletionWorker::drain() { impl_->stop(false); }

void CompletionWorker::break_off() { impl_->stop(true); }

}  // namespace rhetor
