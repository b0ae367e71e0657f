#include "ops/shard.h"

#include <algorithm>
#include <map>

namespace rhetor {
namespace {

[[noreturn]] void wrong(const OpDef& op, const std::string& what) {
  fail(ErrorKind::internal, "the shard rule of {} (\"{}\"): {}", op.name, op.shard, what);
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

std::vector<std::string_view> cut(std::string_view text, char at) {
  std::vector<std::string_view> out;
  text = trim(text);
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(at), text.size());
    if (const auto piece = trim(text.substr(0, end)); !piece.empty()) out.push_back(piece);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

// The first alternative whose guards hold.
std::string_view choose(const OpDef& op, const Attrs& attrs) {
  for (const std::string_view alternative : cut(op.shard, ';')) {
    const std::size_t colon = alternative.find(':');
    if (colon == std::string_view::npos) return alternative;
    bool holds = true;
    for (std::string_view guard : cut(alternative.substr(0, colon), ' ')) {
      const bool wanted = !guard.starts_with('!');
      if (!wanted) guard.remove_prefix(1);
      holds &= attrs.b(guard) == wanted;
    }
    if (holds) return trim(alternative.substr(colon + 1));
  }
  return "";
}

// Dims named by an integer or list attribute, as a mask.
unsigned named_dims(const OpDef& op, const Attrs& attrs, std::string_view attr, int rank) {
  const AttrValue* value = attrs.find(attr);
  if (!value) wrong(op, fmt::format("there is no attribute '{}'", attr));
  std::vector<std::int64_t> axes;
  if (const auto* one = std::get_if<std::int64_t>(value)) axes = {*one};
  else axes = attrs.ints(attr);
  unsigned mask = 0;
  for (const std::int64_t axis : axes) mask |= 1u << normalize_axis(axis, rank, op.name);
  return mask;
}

class Resolver {
 public:
  Resolver(const OpDef& op, std::span<const Type> in, std::span<const Type> out, const Attrs& attrs)
      : op_(op), in_(in), out_(out), attrs_(attrs) {}

  ShardRule run() {
    std::string_view rule = choose(op_, attrs_);
    if (rule.empty()) return std::move(rule_);
    std::string_view sums;
    if (const std::size_t bar = rule.find('|'); bar != std::string_view::npos) {
      sums = trim(rule.substr(bar + 1));
      rule = rule.substr(0, bar);
    }
    const std::size_t arrow = rule.find("->");
    if (arrow == std::string_view::npos) wrong(op_, "it has no '->'");
    const auto operands = terms(rule.substr(0, arrow)), results = terms(rule.substr(arrow + 2));
    for (std::size_t k = 0; k < in_.size(); ++k) {
      rule_.operands.push_back(operand(k < operands.size() ? operands[k] : operands.back(), in_[k].shape));
    }
    if (results.size() != out_.size()) wrong(op_, fmt::format("{} results described, there are {}", results.size(), out_.size()));
    for (std::size_t k = 0; k < out_.size(); ++k) rule_.results.push_back(result(results[k], out_[k].shape));
    sum(sums);
    return std::move(rule_);
  }

 private:
  // Terms between commas; an empty one is of rank 0.
  static std::vector<std::string_view> terms(std::string_view text) {
    std::vector<std::string_view> out;
    for (std::size_t at = 0; at <= text.size();) {
      const std::size_t end = std::min(text.find(',', at), text.size());
      out.push_back(trim(text.substr(at, end - at)));
      at = end + 1;
    }
    return out;
  }

  int factor(const std::string& name) {
    const auto [at, fresh] = numbers_.emplace(name, static_cast<int>(rule_.factors.size()));
    if (fresh) rule_.factors.push_back(name);
    return at->second;
  }
  // Dim d of the shared leading dims counts from the right: "...0" is the innermost.
  int lead(int from_right) { return factor("..." + std::to_string(from_right)); }

  // The words of a term: its leading form ("..." with its marks, or "") and its named dims.
  struct Term {
    std::string_view dots;
    std::vector<std::string_view> names;
  };
  Term split(std::string_view text) const {
    Term out;
    for (const std::string_view word : cut(text, ' ')) {
      if (!word.starts_with("...")) out.names.push_back(word);
      else if (out.names.empty() && out.dots.empty()) out.dots = word;
      else wrong(op_, "'...' must lead its term");
    }
    return out;
  }

  void named(const Term& term, const Shape& shape, int first, std::vector<int>& dims) {
    for (std::size_t k = 0; k < term.names.size(); ++k) {
      if (term.names[k] == "_") {
        dims.push_back(-1);
        continue;
      }
      dims.push_back(factor(std::string(term.names[k])));
      const std::int64_t size = shape[first + static_cast<int>(k)];
      const auto [at, fresh] = sizes_.emplace(dims.back(), size);
      if (!fresh && at->second != size) wrong(op_, fmt::format("'{}' is {} and {}", term.names[k], at->second, size));
    }
  }

  std::vector<int> operand(std::string_view text, const Shape& shape) {
    const Term term = split(text);
    const int leading = shape.rank() - static_cast<int>(term.names.size());
    if (leading < 0 || (leading > 0 && term.dots.empty())) {
      if (shape.rank() == 0) return {};  // an absent operand
      wrong(op_, fmt::format("the term '{}' does not fit an operand of shape {}", text, shape.str()));
    }
    std::vector<int> dims = leading_dims(term.dots, shape, leading);
    named(term, shape, leading, dims);
    return dims;
  }

  // Applies the marks !axis, %list, ^ of a "..." form.
  std::vector<int> leading_dims(std::string_view dots, const Shape& shape, int leading) {
    std::vector<int> dims;
    for (int d = 0; d < leading; ++d) {
      const int from_right = leading - 1 - d;
      auto& size = lead_sizes_[from_right];  // the greatest seen: 1 broadcasts
      size = std::max(size, shape[d]);
      dims.push_back(lead(from_right));
    }
    if (dots.size() > 3) {
      for (std::size_t at = 3; at < dots.size();) {
        const std::size_t end = std::min(dots.find_first_of("!%@-~^", at + 1), dots.size());
        const std::string_view attr = dots.substr(at + 1, end - at - 1);
        if (dots[at] == '!') {
          const unsigned mask = named_dims(op_, attrs_, attr, leading);
          for (int d = 0; d < leading; ++d)
            if (mask >> d & 1) dims[static_cast<std::size_t>(d)] = -1;
        } else if (dots[at] == '%') {
          const auto& list = attrs_.ints(attr);
          for (std::size_t d = 0; d < dims.size() && d < list.size(); ++d)
            if (list[d] != 0) dims[d] = -1;
        } else if (dots[at] == '^') {
          std::fill(dims.begin() + std::min<std::ptrdiff_t>(1, leading), dims.end(), -1);
        } else {
          wrong(op_, fmt::format("the mark '{}' has no meaning here", dots[at]));
        }
        at = end;
      }
    }
    return dims;
  }

  std::vector<int> result(std::string_view text, const Shape& shape) {
    const Term term = split(text);
    const std::string_view dots = term.dots;
    const int leading = shape.rank() - static_cast<int>(term.names.size());
    if (leading < 0) wrong(op_, fmt::format("the term '{}' does not fit a result of shape {}", text, shape.str()));
    std::vector<int> dims;
    if (dots.size() > 3 && dots[3] == '-') dims = without(dots.substr(4), shape);
    else if (dots.size() > 3 && dots[3] == '@') dims = permuted(dots.substr(4));
    else if (dots.size() > 3 && dots[3] == '~') dims = regrouped(shape);
    else if (!dots.empty()) dims = leading_dims(dots, shape, leading);
    if (static_cast<int>(dims.size()) != leading)
      wrong(op_, fmt::format("the term '{}' does not fit a result of shape {}", text, shape.str()));
    named(term, shape, leading, dims);
    return dims;
  }

  std::vector<int> without(std::string_view attr, const Shape&) {
    const Shape& x = in_[0].shape;
    const unsigned mask = named_dims(op_, attrs_, attr, x.rank());
    const bool keep = attrs_.has("keep_dims") && attrs_.b("keep_dims");
    std::vector<int> dims;
    for (int d = 0; d < x.rank(); ++d) {
      if (!(mask >> d & 1)) dims.push_back(rule_.operands[0][static_cast<std::size_t>(d)]);
      else if (keep) dims.push_back(-1);
    }
    return dims;
  }

  std::vector<int> permuted(std::string_view attr) {
    std::vector<int> dims;
    for (const std::int64_t d : attrs_.ints(attr)) dims.push_back(rule_.operands[0][static_cast<std::size_t>(d)]);
    return dims;
  }

  // Cuts both shapes into the shortest groups of equal products; outermost dims of a pair of groups share a factor.
  std::vector<int> regrouped(const Shape& out) {
    const Shape& x = in_[0].shape;
    std::vector<int> kept(static_cast<std::size_t>(x.rank()), -1), dims(static_cast<std::size_t>(out.rank()), -1);
    int i = 0, o = 0;
    while (i < x.rank() && o < out.rank()) {
      const int first_in = i, first_out = o;
      std::int64_t a = x[i++], b = out[o++];
      while (a != b && (a < b ? i < x.rank() : o < out.rank())) (a < b ? a : b) *= a < b ? x[i++] : out[o++];
      if (a != b) break;
      kept[static_cast<std::size_t>(first_in)] = dims[static_cast<std::size_t>(first_out)] =
          rule_.operands[0][static_cast<std::size_t>(first_in)];
    }
    rule_.operands[0] = kept;
    return dims;
  }

  void sum(std::string_view text) {
    if (!text.empty() && !text.starts_with("sum ")) wrong(op_, "after '|' comes 'sum'");
    for (const std::string_view word : cut(text.substr(std::min<std::size_t>(4, text.size())), ' ')) {
      if (word == "...") {
        for (const auto& [name, number] : numbers_)
          if (name.starts_with("...")) rule_.summed.push_back(number);
        continue;
      }
      if (!word.starts_with('@')) {
        rule_.summed.push_back(factor(std::string(word)));
        continue;
      }
      const unsigned mask = named_dims(op_, attrs_, word.substr(1), in_[0].shape.rank());
      for (std::size_t d = 0; d < rule_.operands[0].size(); ++d)
        if (mask >> d & 1) rule_.summed.push_back(rule_.operands[0][d]);
    }
    drop_broadcast();
  }

  // A leading dim of size 1 that broadcasts against a longer one is not split.
  void drop_broadcast() {
    const auto clean = [&](std::vector<int>& dims, const Shape& shape) {
      for (std::size_t d = 0; d < dims.size(); ++d)
        if (dims[d] >= 0 && shape[static_cast<int>(d)] == 1) {
          const std::string& name = rule_.factors[static_cast<std::size_t>(dims[d])];
          if (name.starts_with("...") && lead_sizes_[std::stoi(name.substr(3))] > 1) dims[d] = -1;
        }
    };
    for (std::size_t k = 0; k < rule_.operands.size(); ++k) clean(rule_.operands[k], in_[k].shape);
    for (std::size_t k = 0; k < rule_.results.size(); ++k) clean(rule_.results[k], out_[k].shape);
  }

  const OpDef& op_;
  std::span<const Type> in_, out_;
  const Attrs& attrs_;
  ShardRule rule_;
  std::map<std::string, int> numbers_;
  std::map<int, std::int64_t> sizes_;       // of named factors
  std::map<int, std::int64_t> lead_sizes_;  // of leading dims, from the right
};

}  // namespace

ShardRule shard_rule(const OpDef& op, std::span<const Type> in, std::span<const Type> out, const Attrs& attrs) {
  return Resolver(op, in, out, attrs).run();
}

Attrs local_attrs(const OpDef& op, const Attrs& attrs, std::span<const Type> out, std::int64_t part) {
  Attrs local = attrs;
  for (const AttrSpec& spec : op.attrs) {
    if (out.empty()) break;
    if (spec.name == "shape" && spec.kind == AttrKind::integers) local.set("shape", out[0].shape.sizes());
    if (spec.name == "offset" && spec.kind == AttrKind::integer) local.set("offset", attrs.i("offset") + part * out[0].elements());
  }
  return local;
}

}  // namespace rhetor
