// What the threads that answer requests have in common: a bounded queue, the counts that health and metrics show, the way to
// stop.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "serve/http.h"
#include "serve/metrics.h"

namespace rhetor {

struct WorkerLimits {
  int max_queue = 64;                  // requests that may wait while all slots are busy; more get 429
  int slots = 4;                       // answers computed together, rounded up to a batch the model has
  double max_seconds = 300;            // for one request, waiting included; what a request may shorten
  std::int64_t max_output_tokens = 0;  // of one answer; 0 = what the context holds
  std::int64_t max_input_tokens = 0;   // of one request; 0 = the context (completions), 100,000 (encoder requests)
};

struct WorkerStatus {
  int running = 0;  // requests being computed
  int waiting = 0;
  int slots = 0, busy = 0;  // places for answers, and how many of them are taken
};

// Thread-safe: all of it.
class Worker {
 public:
  virtual ~Worker() = default;
  virtual WorkerStatus status() const = 0;
  // No request is accepted any more; those that were are finished.
  virtual void drain() = 0;
  // Those that were accepted are answered with an error instead.
  virtual void break_off() = 0;
  bool idle() const {
    const WorkerStatus s = status();
    return s.running == 0 && s.waiting == 0;
  }
};

// A failure that a smaller batch may not meet.
bool is_out_of_memory(const std::exception& error);
// What a client is told of a failure that is not its own: 503 where another try may succeed, or the device is gone; else 500.
struct FailureReply {
  int status;
  std::string message;
};
FailureReply failure_reply(const std::exception& error);

using ServeClock = std::chrono::steady_clock;
inline double seconds_between(ServeClock::time_point a, ServeClock::time_point b) {
  return std::chrono::duration<double>(b - a).count();
}
inline ServeClock::time_point after(ServeClock::time_point start, double seconds) {
  return start + std::chrono::microseconds(static_cast<std::int64_t>(seconds * 1e6));
}

// What a worker's thread and those who ask it share; the queue itself is the worker's.
struct WorkerFrame {
  mutable std::mutex mutex;
  std::condition_variable changed;
  int running = 0;          // guarded by mutex: requests the thread has in hand, as the others may see it
  double mean_seconds = 0;  // guarded by mutex: what requests took lately, waiting not counted
  bool draining = false;    // guarded by mutex: no new requests
  bool breaking = false;    // guarded by mutex: nor are the accepted ones finished

  void stop(bool break_off);
  void took(ServeClock::time_point started);
};
// When a request must be done: it may ask for less than the service allows (0 = it does not ask).
ServeClock::time_point deadline_for(ServeClock::time_point accepted, double asked_s, const WorkerLimits& limits);
std::string late_message(ServeClock::time_point accepted, ServeClock::time_point deadline);

// An error in OpenAI's shape. 429 and 503 tell the client when to come back.
void send_error(const ResponderPtr& reply, int status, std::string_view message, std::string_view type = "invalid_request_error",
                std::string_view code = "", int retry_after_s = 1);
// The answer to a request that finds the queue full: when there may be room, from how long requests took lately.
void send_queue_full(const ResponderPtr& reply, int waiting, int slots, double mean_seconds);

// The series of one worker, told apart by model and task ("generate", "encode").
struct ModelMetrics {
  ModelMetrics(Metrics& metrics, Labels labels);
  const Labels labels;
  Counter &prompt_tokens, &output_tokens, &dropped;
  Histogram &queue_seconds, &first_token_seconds, &token_seconds, &batch;
};
// Gauges of a worker: queue depth, slots, slots busy. The worker must outlive the metrics' last text().
void add_worker_gauges(Metrics& metrics, const Labels& labels, const Worker& worker);

}  // namespace rhetor
