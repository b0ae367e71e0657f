#include "graph/attrs.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "graph/text.h"

namespace rhetor {
namespace {

bool same_double(double a, double b) { return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b); }

bool same_value(const AttrValue& a, const AttrValue& b) {
  if (a.index() != b.index()) return false;
  switch (kind_of(a)) {
    case AttrKind::real: return same_double(std::get<double>(a), std::get<double>(b));
    case AttrKind::reals: {
      const auto &x = std::get<std::vector<double>>(a), &y = std::get<std::vector<double>>(b);
      return std::equal(x.begin(), x.end(), y.begin(), y.end(), same_double);
    }
    case AttrKind::tensor: {
      const auto &x = std::get<Tensor>(a), &y = std::get<Tensor>(b);
      return x.type() == y.type() && (x.raw() == y.raw() || std::memcmp(x.raw(), y.raw(), x.bytes()) == 0);
    }
    case AttrKind::graph: {
      const auto &x = std::get<GraphPtr>(a), &y = std::get<GraphPtr>(b);
      return x == y || to_text(*x) == to_text(*y);
    }
    case AttrKind::integer: return std::get<std::int64_t>(a) == std::get<std::int64_t>(b);
    case AttrKind::boolean: return std::get<bool>(a) == std::get<bool>(b);
    case AttrKind::text: return std::get<std::string>(a) == std::get<std::string>(b);
    case AttrKind::integers: return std::get<std::vector<std::int64_t>>(a) == std::get<std::vector<std::int64_t>>(b);
    case AttrKind::dtype: return std::get<DType>(a) == std::get<DType>(b);
  }
  return false;
}

}  // namespace

Attrs::Attrs(std::initializer_list<std::pair<std::string, AttrValue>> items) {
  for (const auto& [name, value] : items) set(name, value);
}

void Attrs::set(std::string_view name, AttrValue value) {
  auto at = std::lower_bound(items_.begin(), items_.end(), name,
                             [](const auto& item, std::string_view n) { return item.first < n; });
  if (at != items_.end() && at->first == name) at->second = std::move(value);
  else items_.emplace(at, std::string(name), std::move(value));
}

const AttrValue* Attrs::find(std::string_view name) const {
  for (const auto& item : items_)
    if (item.first == name) return &item.second;
  return nullptr;
}

bool Attrs::operator==(const Attrs& other) const {
  return std::equal(items_.begin(), items_.end(), other.items_.begin(), other.items_.end(),
                    [](const auto& a, const auto& b) { return a.first == b.first && same_value(a.second, b.second); });
}

}  // namespace rhetor
