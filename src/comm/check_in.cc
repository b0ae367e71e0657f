#include "comm/check_in.h"

#include <cstring>
#include <map>

#include "base/file.h"
#include "base/log.h"

namespace rhetor {
namespace {

// What a rank is about to do, as bytes on the wire (hosts are little-endian). 128 bytes.
struct Ticket {
  std::uint64_t call;
  std::int64_t count;
  std::uint64_t name_hash;
  std::int32_t peer;   // root of a broadcast; ranks of a send and its recv: sender * 65536 + receiver
  std::uint8_t kind, dtype, op, name_length;
  char name[96];       // the beginning of it; the hash is of all
  bool operator==(const Ticket& other) const { return std::memcmp(this, &other, sizeof *this) == 0; }
  std::string str() const {
    const auto kind_of = static_cast<CollectiveKind>(kind);
    std::string text = fmt::format("call {} is {}", call, rhetor::name(kind_of));
    if (kind_of == CollectiveKind::all_reduce || kind_of == CollectiveKind::reduce_scatter)
      text += fmt::format(" ({})", rhetor::name(static_cast<Reduce>(op)));
    text += fmt::format(" of '{}'", std::string_view(name, std::min<std::size_t>(name_length, sizeof name)));
    if (kind_of != CollectiveKind::barrier)
      text += fmt::format(", {} x {}", dtype < kDTypes.size() ? kDTypes[dtype].name : "?", count);
    if (kind_of == CollectiveKind::broadcast) text += fmt::format(", root {}", peer);
    if (kind_of == CollectiveKind::send) text += fmt::format(" from {} to {}", peer / 65536, peer % 65536);
    return text;
  }
};
static_assert(sizeof(Ticket) == 128 && std::is_trivially_copyable_v<Ticket>);

bool between_two(const Collective& what) { return what.kind == CollectiveKind::send || what.kind == CollectiveKind::recv; }

Ticket ticket_of(const Running& running) {
  const Collective& what = running.what;
  Ticket ticket{};
  ticket.call = running.call;
  ticket.count = what.count;
  ticket.name_hash = hash64(what.name);
  ticket.peer = what.peer;
  if (what.kind == CollectiveKind::send) ticket.peer = running.group.rank * 65536 + what.peer;
  if (what.kind == CollectiveKind::recv) ticket.peer = what.peer * 65536 + running.group.rank;
  ticket.kind = static_cast<std::uint8_t>(what.kind == CollectiveKind::recv ? CollectiveKind::send : what.kind);
  ticket.dtype = static_cast<std::uint8_t>(what.dtype);
  ticket.op = static_cast<std::uint8_t>(what.op);
  ticket.name_length = static_cast<std::uint8_t>(std::min(what.name.size(), sizeof ticket.name));
  std::memcpy(ticket.name, what.name.data(), ticket.name_length);
  return ticket;
}

// "call 7 is all_reduce (sum) of 'a', f32 x 10 on rank 0, 2; call 7 is .. on rank 1". In rank order, so the same on every rank.
void compare(const Running& running, const std::map<int, Ticket>& tickets) {
  std::vector<std::pair<Ticket, std::vector<int>>> kinds;
  for (const auto& [rank, ticket] : tickets) {
    std::size_t k = 0;
    while (k < kinds.size() && !(kinds[k].first == ticket)) ++k;
    if (k == kinds.size()) kinds.emplace_back(ticket, std::vector<int>{});
    kinds[k].second.push_back(running.group.members[static_cast<std::size_t>(rank)]);
  }
  if (kinds.size() == 1) return;
  std::string text = "the ranks do not make the same call:";
  const std::vector<int>* odd = nullptr;   // one rank against several: the culprit
  std::size_t most = 0;
  for (const auto& [ticket, ranks] : kinds) {
    text += fmt::format("{} on {} {}", odd || most ? ";" : "", labels(*running.group.transport, ranks), ticket.str());
    if (ranks.size() == 1) odd = &ranks;
    most = std::max(most, ranks.size());
  }
  text += "; all ranks must run the same program on the same recipe";
  running.fail_with({odd && most > 1 && kinds.size() == 2 ? odd->front() : -1, text});
}

}  // namespace

void add_arrivals(const Arrivals& arrivals, const std::string& tensor, WaitStats& waits) {
  double latest = 0;
  std::size_t last = 0;
  for (std::size_t r = 0; r < arrivals.size(); ++r) {
    if (arrivals[r] <= 0) continue;
    RankWait& wait = waits.ranks[r];
    wait.seconds += arrivals[r];
    if (arrivals[r] > wait.longest) {
      wait.longest = arrivals[r];
      wait.longest_name = tensor;
    }
    if (arrivals[r] > latest) latest = arrivals[r], last = r;
  }
  if (latest > 0) ++waits.ranks[last].last;
  waits.seconds += latest;
  ++waits.collectives;
}

Arrivals check_in(const Running& running) {
  const Group& group = running.group;
  const Ticket mine = ticket_of(running);
  std::vector<int> partners;
  for (int r = 0; r < group.size(); ++r)
    if (r != group.rank && (!between_two(running.what) || r == running.what.peer)) partners.push_back(r);
  std::vector<Ticket> theirs(partners.size());
  Step step(running);
  for (std::size_t i = 0; i < partners.size(); ++i) {
    step.send(partners[i], reinterpret_cast<const std::byte*>(&mine), sizeof mine);
    step.recv(partners[i], reinterpret_cast<std::byte*>(&theirs[i]), sizeof mine);
  }
  step.post();
  const CommOptions& options = group.transport->options();
  if (!step.arrive_until(std::min(running.deadline, running.entered + comm_seconds(options.warn_after)))) {
    log_warning("{} on rank {}: waiting for {} since {:.3g} s", running.str(), group.transport->rank(),
                labels(*group.transport, step.missing()), in_seconds(CommClock::now() - running.entered));
    step.arrive();
  }
  std::map<int, Ticket> tickets{{group.rank, mine}};
  for (std::size_t i = 0; i < partners.size(); ++i) tickets.emplace(partners[i], theirs[i]);
  compare(running, tickets);
  Arrivals arrivals(static_cast<std::size_t>(group.size()));
  for (std::size_t i = 0; i < partners.size(); ++i)
    arrivals[static_cast<std::size_t>(partners[i])] = in_seconds(step.received()[i].arrived - running.entered);
  step.finish();
  return arrivals;
}

}  // namespace rhetor
