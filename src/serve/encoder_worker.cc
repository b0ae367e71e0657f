#include "serve/encoder_worker.h"

#include <algorithm>
#include <deque>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "cuda/cuda.h"
#include "serve/api.h"

namespace rhetor {
namespace {

constexpr std::size_t kBatchTexts = 32;         // computed together; after each such part new requests get a turn
constexpr std::int64_t kBatchTokens = 8192;     // likewise
constexpr std::int64_t kInputTokens = 100'000;  // of one request, if the service sets no limit

struct Job {
  EncoderRequest request;
  ResponderPtr reply;
  HttpNote note;
  ServeClock::time_point accepted, started, deadline;
  std::vector<std::int64_t> tokens;  // of each input; empty until the job is looked at
  std::size_t done = 0;              // inputs
  EncoderResult result;
  bool finished = false;

  bool complete() const { return done == request.inputs.size(); }
  void error(int status, std::string_view message, std::string_view type, std::string_view code = "") {
    if (std::exchange(finished, true)) return;
    note.finish = "error";
    reply->note(note);
    send_error(reply, status, message, type, code);
  }
  void failed(const std::exception& thrown) {
    if (const auto* known = dynamic_cast<const Error*>(&thrown);
        known && lost_device().empty() && (known->kind() == ErrorKind::invalid || known->kind() == ErrorKind::unsupported))
      return error(400, known->what(), "invalid_request_error");
    log_warning("an encoder request: {}", thrown.what());
    const FailureReply told = failure_reply(thrown);
    error(told.status, told.message, "server_error");
  }
};
using JobPtr = std::shared_ptr<Job>;

// A run of one job's inputs that is computed now.
struct Part {
  JobPtr job;
  std::size_t begin = 0, count = 0;
};

const char* what(EncoderTask kind) {
  switch (kind) {
    case EncoderTask::embed:
      return "embeddings";
    case EncoderTask::rank:
      return "ranking";
    case EncoderTask::classify:
      return "classification";
    case EncoderTask::tag:
      return "tagging";
    case EncoderTask::answer:
      break;
  }
  return "questions";
}

bool can(const EncoderModel& model, EncoderTask kind) {
  switch (kind) {
    case EncoderTask::embed:
      return model.can_embed();
    case EncoderTask::rank:
      return model.can_rank();
    case EncoderTask::classify:
      return model.can_classify();
    case EncoderTask::tag:
      return model.can_tag();
    case EncoderTask::answer:
      break;
  }
  return model.can_answer();
}

template <class T>
void append(std::vector<T>& to, std::vector<T>& from, std::size_t begin, std::size_t count) {
  const auto first = from.begin() + static_cast<std::ptrdiff_t>(begin);
  to.insert(to.end(), std::make_move_iterator(first), std::make_move_iterator(first + static_cast<std::ptrdiff_t>(count)));
}

}  // namespace

struct EncoderWorker::Impl : WorkerFrame {
  Impl(std::function<EncoderModelPtr()> o, std::string n, WorkerLimits l, Metrics& all)
      : open(std::move(o)), name(std::move(n)), limits(l), metrics(all, {{"model", name}, {"task", "encode"}}) {}

  const std::function<EncoderModelPtr()> open;
  const std::string name;
  const WorkerLimits limits;
  ModelMetrics metrics;
  EncoderModelPtr model;  // the worker thread's; null until the first request

  std::deque<JobPtr> queue;  // guarded by mutex: waiting, or waiting for the next part; `running` are in the part being computed
  std::thread thread;

  void work();
  bool choose(std::vector<Part>& parts);
  bool give_up(Job& job, bool broken_off);
  bool examine(Job& job);
  void compute(const std::vector<Part>& parts);
  void compute_smaller(const std::vector<Part>& parts);
  void keep(const std::vector<Part>& parts, EncoderResult& all);
  void answer(Job& job);
};

void EncoderWorker::Impl::work() {
  std::vector<Part> parts;
  while (choose(parts)) {
    std::erase_if(parts, [this](const Part& part) { return part.job->tokens.empty() && !examine(*part.job); });
    // Token counts are known only now: parts are cut to what belongs into one batch.
    std::size_t texts = 0;
    std::int64_t tokens = 0;
    for (Part& part : parts) {
      const Job& job = *part.job;
      part.begin = job.done;
      part.count = 0;
      const bool alone = job.request.kind == EncoderTask::answer;
      while (part.begin + part.count < job.request.inputs.size() &&
             (texts == 0 || (texts < kBatchTexts && tokens < kBatchTokens && !alone))) {
        tokens += job.tokens[part.begin + part.count++];
        ++texts;
      }
    }
    std::erase_if(parts, [](const Part& part) { return part.count == 0; });
    if (!parts.empty()) compute(parts);
    parts.clear();
  }
}

// Waits for something to do; takes the first job and others of its kind whose texts may be computed with its own. Jobs stay in
// the queue until they are answered. False when the worker is to end and nothing is left.
bool EncoderWorker::Impl::choose(std::vector<Part>& parts) {
  std::unique_lock lock(mutex);
  running = 0;
  std::erase_if(queue, [](const JobPtr& job) { return job->finished; });
  changed.wait(lock, [this] { return draining || !queue.empty(); });
  std::erase_if(queue, [this](const JobPtr& job) { return give_up(*job, breaking); });
  if (queue.empty()) return !draining;
  // The first gets its turn now and is the last of those that wait for one.
  std::rotate(queue.begin(), queue.begin() + 1, queue.end());
  parts.push_back({queue.back()});
  const EncoderTask kind = queue.back()->request.kind;
  if (kind == EncoderTask::embed || kind == EncoderTask::classify || kind == EncoderTask::tag) {
    for (const JobPtr& job : queue) {
      if (job != parts[0].job && job->request.kind == kind && parts.size() < kBatchTexts) parts.push_back({job});
    }
  }
  running = static_cast<int>(parts.size());
  return true;
}

bool EncoderWorker::Impl::give_up(Job& job, bool broken_off) {
  if (job.reply->closed()) {
    if (!std::exchange(job.finished, true)) metrics.dropped.add();
  } else if (broken_off) {
    job.error(503, "the service is stopping", "server_error");
  } else if (ServeClock::now() > job.deadline) {
    job.error(504, late_message(job.accepted, job.deadline), "server_error", "timeout");
  }
  return job.finished;
}

// At a job's first turn: is it something that the model can do, and within the limits? False, and answered, if not.
bool EncoderWorker::Impl::examine(Job& job) {
  const EncoderRequest& r = job.request;
  job.started = ServeClock::now();
  metrics.queue_seconds.observe(seconds_between(job.accepted, job.started));
  try {
    if (!model) model = open();
    if (!can(*model, r.kind)) fail("the model '{}' has no head for {}; it was not trained for that", name, what(r.kind));
    const std::int64_t most = limits.max_input_tokens > 0 ? limits.max_input_tokens : kInputTokens,
                       context = model->config().context;
    for (std::size_t i = 0; i < r.inputs.size(); ++i) {
      const std::int64_t count = model->tokens(r.inputs[i]);
      if (!r.truncate && count > context) {
        throw Error(ErrorKind::resource,
                    fmt::format("text {} has {} tokens, the model's context holds {}; shorten it, or set 'truncate' to true", i,
                                count, context));
      }
      job.tokens.push_back(r.kind == EncoderTask::answer ? count : std::min(count, context));
      job.result.tokens += job.tokens.back();
      if (job.result.tokens > most)
        throw Error(
            ErrorKind::resource,
            fmt::format("the request has more than the {} tokens that this service reads a request; send less at once", most));
    }
    metrics.prompt_tokens.add(static_cast<double>(job.result.tokens));
    return true;
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::resource)
      job.error(400, error.what(), "invalid_request_error", "context_length_exceeded");
    else
      job.failed(error);
  } catch (const std::exception& error) {
    job.failed(error);
  }
  return false;
}

void EncoderWorker::Impl::compute(const std::vector<Part>& parts) {
  std::vector<TextPair> pairs;
  for (const Part& part : parts) {
    const auto first = part.job->request.inputs.begin() + static_cast<std::ptrdiff_t>(part.begin);
    pairs.insert(pairs.end(), first, first + static_cast<std::ptrdiff_t>(part.count));
  }
  metrics.batch.observe(static_cast<double>(pairs.size()));
  const EncoderRequest& request = parts[0].job->request;
  try {
    std::vector<std::string> texts;  // of each pair, the one that the call below takes
    for (const TextPair& pair : pairs) texts.push_back(request.kind == EncoderTask::rank ? pair.second : pair.first);
    EncoderResult all;
    switch (request.kind) {
      case EncoderTask::embed:
        all.vectors = model->embed(texts);
        break;
      case EncoderTask::rank:
        all.scores = model->rank(pairs[0].first, texts);
        break;
      case EncoderTask::classify:
        all.labels = model->classify(pairs);
        break;
      case EncoderTask::tag:
        all.words = model->tag(texts);
        break;
      case EncoderTask::answer:
        all.answers = model->answer(pairs[0].first, pairs[0].second, request.ask);
        break;
    }
    keep(parts, all);
  } catch (const std::exception& error) {
    if (is_out_of_memory(error) && pairs.size() > 1) return compute_smaller(parts);
    for (const Part& part : parts) part.job->failed(error);
  }
}

// What was too much at once, in two halves.
void EncoderWorker::Impl::compute_smaller(const std::vector<Part>& parts) {
  if (parts.size() > 1) {
    const auto middle = parts.begin() + static_cast<std::ptrdiff_t>(parts.size() / 2);
    compute(std::vector<Part>(parts.begin(), middle));
    compute(std::vector<Part>(middle, parts.end()));
    return;
  }
  const Part& part = parts[0];
  const std::size_t half = part.count / 2;
  compute(std::vector<Part>{Part{part.job, part.begin, half}});
  if (!part.job->finished) compute(std::vector<Part>{Part{part.job, part.begin + half, part.count - half}});
}

void EncoderWorker::Impl::keep(const std::vector<Part>& parts, EncoderResult& all) {
  std::size_t at = 0;
  for (const Part& part : parts) {
    EncoderResult& r = part.job->result;
    switch (part.job->request.kind) {
      case EncoderTask::embed:
        append(r.vectors, all.vectors, at, part.count);
        break;
      case EncoderTask::rank:
        append(r.scores, all.scores, at, part.count);
        break;
      case EncoderTask::classify:
        append(r.labels, all.labels, at, part.count);
        break;
      case EncoderTask::tag:
        append(r.words, all.words, at, part.count);
        break;
      case EncoderTask::answer:
        r.answers = std::move(all.answers);
        break;
    }
    at += part.count;
    part.job->done += part.count;
    if (part.job->complete()) answer(*part.job);
  }
}

void EncoderWorker::Impl::answer(Job& job) {
  try {
    std::string body = task_json(job.request, job.result, name);
    job.finished = true;
    job.note.prompt_tokens = job.result.tokens;
    job.reply->note(job.note);
    job.reply->send(200, "application/json", std::move(body));
  } catch (const std::exception& error) {
    job.failed(error);  // 'dimensions' beyond those of the model
  }
  took(job.started);
}

// ---- public ----

EncoderWorker::EncoderWorker(std::function<EncoderModelPtr()> open, std::string name, WorkerLimits limits, Metrics& metrics)
    : impl_(std::make_unique<Impl>(std::move(open), std::move(name), limits, metrics)) {
  add_worker_gauges(metrics, impl_->metrics.labels, *this);
  impl_->thread = std::thread([impl = impl_.get()] { impl->work(); });
}

EncoderWorker::~EncoderWorker() {
  break_off();
  impl_->thread.join();
}

void EncoderWorker::submit(EncoderRequest request, ResponderPtr reply, const std::string& key) {
  Impl& w = *impl_;
  const auto job = std::make_shared<Job>();
  job->request = std::move(request);
  job->note = {.model = w.name, .key = key};
  job->accepted = ServeClock::now();
  job->deadline = deadline_for(job->accepted, job->request.timeout_s, w.limits);
  {
    std::lock_guard lock(w.mutex);
    if (w.draining) return send_error(reply, 503, "the service is stopping", "server_error");
    const auto waiting = static_cast<int>(w.queue.size());
    if (waiting >= 1 + w.limits.max_queue) return send_queue_full(reply, waiting, 1, w.mean_seconds);
    job->reply = std::move(reply);
    w.queue.push_back(job);
  }
  w.changed.notify_all();
}

WorkerStatus EncoderWorker::status() const {
  std::lock_guard lock(impl_->mutex);
  const int all = static_cast<int>(impl_->queue.size());
  return {.running = std::min(all, impl_->running),
          .waiting = std::max(0, all - impl_->running),
          .slots = 1,
          .busy = impl_->running > 0 ? 1 : 0};
}

void EncoderWorker::drain() { impl_->stop(false); }

void EncoderWorker::break_off() { impl_->stop(true); }

}  // namespace rhetor
