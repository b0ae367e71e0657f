#include "comm/group.h"

namespace rhetor {

std::string labels(const Transport& transport, const std::vector<int>& ranks) {
  std::string text;
  for (const int rank : ranks) text += (text.empty() ? "" : ", ") + transport.label(rank);
  return text;
}

std::string Running::str() const {
  std::string text = fmt::format("{} of '{}' (", name(what.kind), what.name);
  if (what.kind != CollectiveKind::barrier) text += fmt::format("{} x {}, ", name(what.dtype), what.count);
  text += fmt::format("call {}", call);
  if (group.size() != group.transport->size()) text += fmt::format(", among {} of {} ranks", group.size(), group.transport->size());
  return text + ")";
}

void Running::fail_with(CommFailure failure) const {
  group.transport->fail_all(std::move(failure));
  fail_with_known();
}

void Running::fail_with_known() const {
  const std::optional<CommFailure> failure = group.transport->failure();
  check(failure.has_value(), "a transport that failed knows why");
  throw CommError(failure->rank, fmt::format("{} on rank {}: {}", str(), group.transport->rank(), failure->reason));
}

Step::~Step() {
  if (posted_) running_->group.transport->cancel(exchange_);
}

void Step::send(int to, const std::byte* bytes, std::size_t length) {
  if (length) exchange_.out.push_back({.to = running_->group.members[static_cast<std::size_t>(to)], .bytes = {bytes, length}});
}

void Step::recv(int from, std::byte* into, std::size_t length, bool view) {
  if (length)
    exchange_.in.push_back({.from = running_->group.members[static_cast<std::size_t>(from)], .into = {into, length}, .view = view});
}

void Step::post() {
  posted_ = true;
  running_->group.transport->post(exchange_);
}

bool Step::arrive_until(CommClock::time_point until) {
  const Progress progress = running_->group.transport->arrive(exchange_, until);
  if (progress == Progress::failed) running_->fail_with_known();
  return progress == Progress::done;
}

void Step::arrive() {
  if (!arrive_until(running_->deadline)) late();
}

void Step::finish() {
  const Progress progress = running_->group.transport->finish(exchange_, running_->deadline);
  if (progress == Progress::failed) running_->fail_with_known();
  if (progress == Progress::late) late();
  posted_ = false;
}

void Step::late() const {
  const Transport& transport = *running_->group.transport;
  const std::vector<int> ranks = missing();
  const double allowed = in_seconds(running_->deadline - running_->entered);
  std::string reason = fmt::format("{} did not come to {} within {:.3g} s of rank {}'s arrival", labels(transport, ranks), running_->str(),
                                   allowed, transport.rank());
  if (ranks.size() == 1) {
    const double silent = running_->group.transport->silent_for(ranks[0]);
    if (silent > transport.options().silence) reason += fmt::format("; its last sign of life was {:.1f} s ago", silent);
    else if (silent >= 0) reason += "; its process is alive, so it computes, reads or hangs";
  }
  running_->fail_with({ranks.empty() ? -1 : ranks[0], reason});
}

}  // namespace rhetor
