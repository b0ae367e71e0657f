#include "tensor/shape.h"

#include <algorithm>
#include <deque>
#include <mutex>
#include <unordered_map>

#include "base/error.h"

namespace rhetor {
namespace {

struct NameTable {
  std::mutex mutex;
  std::deque<std::string> texts{std::string()};  // deque: views stay valid as it grows
  std::unordered_map<std::string_view, std::uint16_t> ids;
};

NameTable& names() {
  static NameTable table;
  return table;
}

}  // namespace

DimName::DimName(std::string_view text) {
  if (text.empty()) return;
  NameTable& table = names();
  std::lock_guard lock(table.mutex);
  if (auto found = table.ids.find(text); found != table.ids.end()) {
    id_ = found->second;
    return;
  }
  if (table.texts.size() >= 65535) fail(ErrorKind::resource, "more than 65,534 different dim names");
  table.texts.emplace_back(text);
  id_ = static_cast<std::uint16_t>(table.texts.size() - 1);
  table.ids.emplace(table.texts.back(), id_);
}

std::string_view DimName::text() const {
  NameTable& table = names();
  std::lock_guard lock(table.mutex);
  return table.texts[id_];
}

Shape::Shape(std::span<const Dim> dims) {
  if (dims.size() > kMaxRank) fail("a tensor of rank {} is not supported; the largest rank is {}", dims.size(), kMaxRank);
  for (const Dim& dim : dims) append(dim);
}

Shape::Shape(const std::vector<std::int64_t>& sizes) {
  if (sizes.size() > kMaxRank) fail("a tensor of rank {} is not supported; the largest rank is {}", sizes.size(), kMaxRank);
  for (auto size : sizes) append(size);
}

void Shape::append(Dim dim) {
  if (rank_ == kMaxRank) fail("a tensor of rank {} is not supported; the largest rank is {}", rank_ + 1, kMaxRank);
  if (dim.size < 0) fail("a dim of size {} is not possible", dim.size);
  dims_[static_cast<std::size_t>(rank_++)] = dim;
}

std::int64_t Shape::elements() const { return elements(0, rank_); }

std::int64_t Shape::elements(int begin, int end) const {
  std::int64_t product = 1;
  for (int i = begin; i < end; ++i) {
    if (__builtin_mul_overflow(product, (*this)[i], &product))
      fail("shape {} has more elements than a 64-bit count can hold", str());
  }
  return product;
}

std::vector<std::int64_t> Shape::sizes() const {
  std::vector<std::int64_t> out;
  for (const Dim& dim : dims()) out.push_back(dim.size);
  return out;
}

std::vector<std::int64_t> Shape::strides() const {
  std::vector<std::int64_t> out(static_cast<std::size_t>(rank_), 1);
  for (int i = rank_ - 2; i >= 0; --i)
    out[static_cast<std::size_t>(i)] = out[static_cast<std::size_t>(i) + 1] * (*this)[i + 1];
  return out;
}

bool Shape::operator==(const Shape& other) const {
  if (rank_ != other.rank_) return false;
  for (int i = 0; i < rank_; ++i)
    if ((*this)[i] != other[i]) return false;
  return true;
}

std::string Shape::str() const {
  std::string out = "[";
  for (int i = 0; i < rank_; ++i) {
    if (i) out += ',';
    if (!dim(i).name.empty()) out.append(dim(i).name.text()).append(":");
    out += std::to_string(dim(i).size);
  }
  return out + "]";
}

std::string Type::str() const { return std::string(name(dtype)) + shape.str(); }

Shape broadcast_shapes(const Shape& a, const Shape& b) {
  const int rank = std::max(a.rank(), b.rank());
  Shape out;
  for (int i = 0; i < rank; ++i) {
    const int ia = i - (rank - a.rank()), ib = i - (rank - b.rank());
    const Dim da = ia >= 0 ? a.dim(ia) : Dim(1), db = ib >= 0 ? b.dim(ib) : Dim(1);
    if (da.size != db.size && da.size != 1 && db.size != 1)
      fail("shapes {} and {} do not broadcast: dim {} is {} against {}", a.str(), b.str(), i, da.size, db.size);
    Dim dim = da.size == 1 ? db : da;
    if (dim.name.empty()) dim.name = da.name.empty() ? db.name : da.name;
    out.append(dim);
  }
  return out;
}

int normalize_axis(std::int64_t axis, int rank, std::string_view what) {
  const std::int64_t out = axis < 0 ? axis + rank : axis;
  if (out < 0 || out >= rank) fail("{}: axis {} is outside a tensor of rank {}", what, axis, rank);
  return static_cast<int>(out);
}

}  // namespace rhetor
