// Buffers come from liveness.cc; here they get offsets. Placing intervals of given sizes so that the arena is smallest is
// NP-hard ("dynamic storage allocation"), but greedy best-fit is near the liveness bound when the right buffer goes first. So:
// a few orders, then repair: what sticks out at the top is moved to the front of the order and everything is placed again.
#include "passes/memory.h"

#include <algorithm>
#include <numeric>

#include "graph/op.h"
#include "passes/index.h"
#include "passes/liveness.h"

namespace rhetor {
namespace {

struct Item {
  std::uint64_t bytes = 0;
  std::int32_t born = 0, dies = 0;
};

class Packer {
 public:
  explicit Packer(std::vector<Item> items) : items_(std::move(items)), offset_(items_.size()), best_offset_(items_.size()) {}

  // Offsets whose height is the least found; stops at `bound`, below which nothing fits.
  const std::vector<std::uint64_t>& pack(std::uint64_t bound) {
    using Key = double (*)(const Item&);
    const Key keys[] = {
        [](const Item& i) { return -static_cast<double>(i.bytes); },
        [](const Item& i) { return -static_cast<double>(i.bytes) * (i.dies - i.born + 1); },
        [](const Item& i) { return -static_cast<double>(i.dies - i.born); },
        [](const Item& i) { return static_cast<double>(i.born); },
        [](const Item& i) { return -static_cast<double>(i.dies); },
    };
    std::vector<int> best_order;
    for (const Key key : keys) {
      std::vector<int> order(items_.size());
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return key(items_[at(a)]) < key(items_[at(b)]); });
      for (const bool tightest : {true, false})
        if (place(order, tightest)) best_order = order;
      if (best_height_ <= bound) return best_offset_;
    }
    // Repair. The work of one placement is quadratic; the number of tries shrinks as graphs grow, so planning stays below a second.
    const int tries = static_cast<int>(std::clamp<std::size_t>(std::size_t{60'000'000} / (items_.size() * items_.size() + 1), 4, 200));
    std::vector<int> order = best_order;
    for (int t = 0; t < tries && best_height_ > bound; ++t) {
      const auto top = std::max_element(order.begin(), order.end(), [&](int a, int b) { return end(a) < end(b); });
      std::rotate(order.begin(), top, top + 1);
      place(order, t % 2 == 0);
    }
    return best_offset_;
  }
  std::uint64_t height() const { return best_height_; }

 private:
  std::uint64_t end(int i) const { return offset_[at(i)] + items_[at(i)].bytes; }

  // Places every item in order at the tightest (or lowest) gap between the items alive with it; true if the result is a new best.
  bool place(const std::vector<int>& order, bool tightest) {
    placed_.clear();  // by offset
    std::uint64_t height = 0;
    for (const int i : order) {
      const Item& item = items_[at(i)];
      if (item.bytes == 0) {
        offset_[at(i)] = 0;
        continue;
      }
      std::uint64_t cursor = 0, found = 0, slack = 0;
      bool any = false;
      for (const int other : placed_) {
        const Item& o = items_[at(other)];
        if (o.dies < item.born || item.dies < o.born) continue;
        if (offset_[at(other)] >= cursor + item.bytes) {
          const std::uint64_t gap = offset_[at(other)] - cursor - item.bytes;
          if (!any || (tightest && gap < slack)) {
            found = cursor;
            slack = gap;
            any = true;
          }
          if (!tightest) break;
        }
        cursor = std::max(cursor, end(other));
      }
      offset_[at(i)] = any ? found : cursor;
      height = std::max(height, end(i));
      const auto where = std::lower_bound(placed_.begin(), placed_.end(), i,
                                          [&](int a, int b) { return offset_[at(a)] < offset_[at(b)]; });
      placed_.insert(where, i);
    }
    if (have_best_ && height >= best_height_) return false;
    have_best_ = true;
    best_height_ = height;
    best_offset_ = offset_;
    return true;
  }

  std::vector<Item> items_;
  std::vector<std::uint64_t> offset_, best_offset_;
  std::vector<int> placed_;
  std::uint64_t best_height_ = 0;
  bool have_best_ = false;
};

ValuePlace place_of(const Graph& graph, const Buffer& b, std::uint64_t offset) {
  ValuePlace place{.offset = 0, .root = b.root};
  switch (b.home) {
    case Buffer::Home::input: place.place = Place::input; place.slot = b.root.node; break;
    case Buffer::Home::param: place.place = Place::param; place.slot = b.root.node; break;
    case Buffer::Home::state: place.place = Place::state; place.slot = b.state; break;
    case Buffer::Home::constant: place.place = Place::constant; place.slot = b.root.node; break;
    case Buffer::Home::arena:
      if (b.output >= 0) {
        place.place = Place::output;
        place.slot = b.output;
      } else {
        place.place = Place::arena;
        place.offset = offset;
      }
  }
  place.dies = std::min(b.dies, graph.size());
  return place;
}

}  // namespace

MemoryPlan plan_memory(const Graph& graph, const std::vector<std::uint64_t>& scratch, bool in_place) {
  check(scratch.empty() || scratch.size() == at(graph.size()), "plan_memory: one scratch size a node");
  const Flow flow = flow_of(graph);
  const Buffers buffers = find_buffers(flow, in_place, scratch);

  std::vector<Item> items;
  std::vector<int> item_of_buffer(buffers.list.size(), -1), item_of_scratch(at(graph.size()), -1);
  for (std::size_t b = 0; b < buffers.list.size(); ++b) {
    const Buffer& buffer = buffers.list[b];
    if (buffer.home != Buffer::Home::arena || buffer.output >= 0) continue;
    item_of_buffer[b] = static_cast<int>(items.size());
    items.push_back({aligned(buffer.bytes), buffer.born, buffer.dies});
  }
  for (std::int32_t i = 0; i < graph.size() && !scratch.empty(); ++i) {
    if (scratch[at(i)] == 0) continue;
    item_of_scratch[at(i)] = static_cast<int>(items.size());
    items.push_back({aligned(scratch[at(i)]), i, i});
  }
  Packer packer(std::move(items));
  const std::vector<std::uint64_t>& offsets = packer.pack(buffers.peak);

  MemoryPlan plan;
  plan.arena_bytes = packer.height();
  plan.lower_bound = buffers.peak;
  plan.in_place = buffers.in_place;
  plan.places.resize(at(graph.size()));
  plan.scratch_offset.assign(at(graph.size()), 0);
  plan.scratch_bytes.assign(at(graph.size()), 0);
  for (std::int32_t i = 0; i < graph.size(); ++i) {
    if (item_of_scratch[at(i)] >= 0) {
      plan.scratch_offset[at(i)] = offsets[at(item_of_scratch[at(i)])];
      plan.scratch_bytes[at(i)] = scratch[at(i)];
    }
    for (std::size_t k = 0; k < graph.node(i).outputs.size(); ++k) {
      const int b = buffers.of[at(i)][k];
      const int item = item_of_buffer[at(b)];
      ValuePlace place = place_of(graph, buffers.list[at(b)], item >= 0 ? offsets[at(item)] : 0);
      place.bytes = graph.node(i).outputs[k].bytes();
      place.born = i;
      plan.places[at(i)].push_back(place);
    }
  }
  return plan;
}

std::vector<StateUpdate> state_copies(const Graph& graph, const MemoryPlan& plan) {
  const auto source = [&](const StateUpdate& u) -> const ValuePlace& {
    return plan.places[at(u.value.node)][at(u.value.output)];
  };
  std::vector<StateUpdate> waiting, out;
  for (const StateUpdate& update : graph.updates()) {
    const ValuePlace& place = source(update);
    if (place.place != Place::state || place.slot != update.state) waiting.push_back(update);
  }
  // A copy that reads a state's memory goes before the copy that overwrites it.
  while (!waiting.empty()) {
    const auto ready = std::find_if(waiting.begin(), waiting.end(), [&](const StateUpdate& candidate) {
      return std::none_of(waiting.begin(), waiting.end(), [&](const StateUpdate& other) {
        return other.state != candidate.state && source(other).place == Place::state && source(other).slot == candidate.state;
      });
    });
    if (ready == waiting.end())
      fail(ErrorKind::unsupported, "the states '{}' and others exchange their values in a circle, which no order of copies can do; "
           "keep them as one state and exchange its parts (slice, concat)", graph.input_name(waiting.front().state));
    out.push_back(*ready);
    waiting.erase(ready);
  }
  return out;
}

std::vector<std::int32_t> output_copies(const Graph& graph, const MemoryPlan& plan) {
  std::vector<std::int32_t> out;
  for (std::size_t k = 0; k < graph.outputs().size(); ++k) {
    const ValueId v = graph.outputs()[k].value;
    const ValuePlace& place = plan.places[at(v.node)][at(v.output)];
    if (place.place != Place::output || place.slot != static_cast<std::int32_t>(k)) out.push_back(static_cast<std::int32_t>(k));
  }
  return out;
}

}  // namespace rhetor
