// Attributes of a node: a small sorted map from name to a typed value.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "tensor/tensor.h"

namespace rhetor {

class Graph;
using GraphPtr = std::shared_ptr<const Graph>;

// Order matters: the index is the kind (AttrKind below).
using AttrValue = std::variant<std::int64_t, double, bool, std::string, std::vector<std::int64_t>,
                               std::vector<double>, DType, Tensor, GraphPtr>;
enum class AttrKind { integer, real, boolean, text, integers, reals, dtype, tensor, graph };

inline AttrKind kind_of(const AttrValue& value) { return static_cast<AttrKind>(value.index()); }

// What an op says of one of its attributes. `fallback` is used when the node does not set it; a required
// attribute has none.
struct AttrSpec {
  std::string_view name;
  AttrKind kind;
  std::string_view doc;
  bool required = true;
  AttrValue fallback = std::int64_t{0};
};

class Attrs {
 public:
  Attrs() = default;
  Attrs(std::initializer_list<std::pair<std::string, AttrValue>> items);

  void set(std::string_view name, AttrValue value);
  const AttrValue* find(std::string_view name) const;
  bool has(std::string_view name) const { return find(name) != nullptr; }

  // Typed access; a missing name or another kind is a bug of ours (the verifier has checked the node).
  std::int64_t i(std::string_view name) const { return get<std::int64_t>(name); }
  double f(std::string_view name) const { return get<double>(name); }
  bool b(std::string_view name) const { return get<bool>(name); }
  const std::string& s(std::string_view name) const { return get<std::string>(name); }
  const std::vector<std::int64_t>& ints(std::string_view name) const { return get<std::vector<std::int64_t>>(name); }
  const std::vector<double>& reals(std::string_view name) const { return get<std::vector<double>>(name); }
  DType dtype(std::string_view name) const { return get<DType>(name); }
  const Tensor& tensor(std::string_view name) const { return get<Tensor>(name); }
  const GraphPtr& graph(std::string_view name) const { return get<GraphPtr>(name); }

  auto begin() const { return items_.begin(); }
  auto end() const { return items_.end(); }
  std::size_t size() const { return items_.size(); }
  // Equal names, kinds and values; tensors by content, doubles by bits, graphs by text form.
  bool operator==(const Attrs& other) const;

 private:
  template <class T> const T& get(std::string_view name) const;
  std::vector<std::pair<std::string, AttrValue>> items_;  // sorted by name
};

template <class T>
const T& Attrs::get(std::string_view name) const {
  const AttrValue* value = find(name);
  if (!value || !std::holds_alternative<T>(*value)) {
    fail(ErrorKind::internal, "attribute '{}' is {}", name, value ? "of another kind" : "missing");
  }
  return std::get<T>(*value);
}

}  // namespace rhetor
