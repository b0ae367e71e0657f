#include "serve/worker.h"

#include <algorithm>
#include <cmath>
#include <new>

#include "base/error.h"
#include "cuda/cuda.h"
#include "serve/api.h"

namespace rhetor {
namespace {

constexpr int kLongestRetry = 30;  // seconds

}  // namespace

void WorkerFrame::stop(bool break_off) {
  {
    std::lock_guard lock(mutex);
    draining = true;
    breaking |= break_off;
  }
  changed.notify_all();
}

void WorkerFrame::took(ServeClock::time_point started) {
  std::lock_guard lock(mutex);
  mean_seconds += 0.1 * (seconds_between(started, ServeClock::now()) - mean_seconds);
}

ServeClock::time_point deadline_for(ServeClock::time_point accepted, double asked_s, const WorkerLimits& limits) {
  return after(accepted, asked_s > 0 ? std::min(asked_s, limits.max_seconds) : limits.max_seconds);
}

std::string late_message(ServeClock::time_point accepted, ServeClock::time_point deadline) {
  return fmt::format("the answer took longer than the {:.3g} s allowed", seconds_between(accepted, deadline));
}

void send_error(const ResponderPtr& reply, int status, std::string_view message, std::string_view type, std::string_view code,
                int retry_after_s) {
  if (status == 429 || status == 503) reply->add_header("Retry-After", fmt::format("{}", retry_after_s));
  if (status == 401) reply->add_header("WWW-Authenticate", "Bearer");
  reply->send(status, "application/json", error_json(message, type, code));
}

bool is_out_of_memory(const std::exception& error) {
  const auto* known = dynamic_cast<const Error*>(&error);
  return (known && known->kind() == ErrorKind::resource) || dynamic_cast<const std::bad_alloc*>(&error);
}

FailureReply failure_reply(const std::exception& error) {
  if (!lost_device().empty()) return {503, "the service lost its GPU and stops"};
  if (is_out_of_memory(error)) return {503, "the service ran out of memory; it goes on with smaller batches, so send the request again"};
  return {500, "internal error"};
}

void send_queue_full(const ResponderPtr& reply, int waiting, int slots, double mean_seconds) {
  // One place is free once a slot has worked off what is its share of the queue; somebody else may be quicker.
  const int seconds = std::clamp(static_cast<int>(std::ceil(mean_seconds / std::max(1, slots))), 1, kLongestRetry);
  send_error(reply, 429, fmt::format("{} requests are waiting already; try again in {} s", waiting, seconds), "rate_limit_error",
             "queue_full", seconds);
}

ModelMetrics::ModelMetrics(Metrics& m, Labels l)
    : labels(std::move(l)),
      prompt_tokens(m.counter("rhetor_prompt_tokens_total", "Tokens read.", labels)),
      output_tokens(m.counter("rhetor_output_tokens_total", "Tokens generated.", labels)),
      dropped(m.counter("rhetor_abandoned_total", "Requests whose client left before the answer was complete.", labels)),
      queue_seconds(
          m.histogram("rhetor_queue_seconds", "From the acceptance of a request to its start.", latency_bounds(), labels)),
      first_token_seconds(m.histogram("rhetor_time_to_first_token_seconds",
                                      "From the acceptance of a request to its first token.", latency_bounds(), labels)),
      token_seconds(m.histogram("rhetor_time_per_output_token_seconds", "Mean time between the tokens of an answer.",
                                latency_bounds(), labels)),
      batch(m.histogram("rhetor_batch_size", "Answers (or texts) computed in one step.", {1, 2, 4, 8, 16, 32, 64, 128}, labels)) {
}

void add_worker_gauges(Metrics& metrics, const Labels& labels, const Worker& worker) {
  const auto add = [&](const char* name, const char* help, int WorkerStatus::*member) {
    metrics.gauge(
        name, help, [&worker, member] { return static_cast<double>(worker.status().*member); }, labels);
  };
  add("rhetor_queue_depth", "Requests that wait for a slot.", &WorkerStatus::waiting);
  add("rhetor_requests_running", "Requests being computed.", &WorkerStatus::running);
  add("rhetor_slots", "Answers that can be computed together.", &WorkerStatus::slots);
  add("rhetor_slots_busy", "Slots that compute an answer.", &WorkerStatus::busy);
}

}  // namespace rhetor
