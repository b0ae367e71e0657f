// Reading the text form (grammar in text.cc). The text may come from a hostile file: nothing is allocated before
// the text is known to be long enough to fill it, nesting and counts are bounded, every failure has a place.
#include <charconv>
#include <set>

#include "graph/text.h"

namespace rhetor {
namespace {

constexpr int kMaxDepth = 8;              // graphs inside graphs
constexpr std::int32_t kMaxNodes = 4'000'000;
constexpr std::size_t kMaxList = 1 << 16;  // operands, integers, results
constexpr std::size_t kMaxDimNames = 1024, kMaxDimName = 64;

class Parser {
 public:
  Parser(std::string_view text, const OpTable& ops) : text_(text), ops_(ops) {}

  Graph run() {
    Graph out = graph(0);
    skip_space();
    if (at_ < text_.size()) error("the end of the text", found());
    return out;
  }

 private:
  // ---- places and errors ---------------------------------------------------------------------------
  [[noreturn]] void error_at(std::size_t at, const std::string& message) const {
    std::size_t line = 1, start = 0;
    for (std::size_t i = 0; i < at && i < text_.size(); ++i)
      if (text_[i] == '\n') {
        ++line;
        start = i + 1;
      }
    fail("graph text, line {}, column {}: {}", line, at - start + 1, message);
  }
  [[noreturn]] void error(std::string_view expected, const std::string& what) const {
    error_at(at_, fmt::format("expected {}, found {}", expected, what));
  }
  std::string found() const {
    if (at_ >= text_.size()) return "the end of the text";
    const unsigned char c = static_cast<unsigned char>(text_[at_]);
    if (c < 0x20 || c >= 0x7f) return fmt::format("byte {:#04x}", c);
    std::size_t end = at_;
    while (end < text_.size() && end < at_ + 20 && is_word(text_[end])) ++end;
    return fmt::format("'{}'", text_.substr(at_, std::max<std::size_t>(end - at_, 1)));
  }
  // Runs `body`; an Error inside that has no place yet gets this one.
  template <class F>
  auto at_place(std::size_t at, F&& body) const {
    try {
      return body();
    } catch (const Error& e) {
      error_at(at, e.what());
    } catch (const std::bad_alloc&) {
      error_at(at, "not enough memory for this");
    }
  }

  // ---- tokens --------------------------------------------------------------------------------------
  static bool is_word(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '.' || c == '-' ||
           c == '+';
  }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r')) ++at_;
  }
  char peek() {
    skip_space();
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool accept(char c) {
    if (peek() != c || at_ >= text_.size()) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) error(fmt::format("'{}'", c), found());
  }
  std::string_view word(std::string_view what) {
    skip_space();
    const std::size_t begin = at_;
    while (at_ < text_.size() && is_word(text_[at_])) ++at_;
    if (begin == at_) error(what, found());
    return text_.substr(begin, at_ - begin);
  }
  template <class N>
  N number(std::string_view digits, std::size_t at, std::string_view what) const {
    N out{};
    const auto [end, status] = std::from_chars(digits.data(), digits.data() + digits.size(), out);
    if (status != std::errc() || end != digits.data() + digits.size()) {
      error_at(at, fmt::format("expected {}, found '{}'{}", what, digits.substr(0, 40),
                               status == std::errc::result_out_of_range ? ", which is out of range" : ""));
    }
    return out;
  }
  std::int64_t integer(std::string_view what) {
    skip_space();
    const std::size_t at = at_;
    return number<std::int64_t>(word(what), at, what);
  }
  template <class Bits>
  Bits bits(std::string_view digits, std::size_t at) const {  // "0x..."
    std::uint64_t out = 0;
    const auto [end, status] = std::from_chars(digits.data() + 2, digits.data() + digits.size(), out, 16);
    if (status != std::errc() || end != digits.data() + digits.size() || out > std::numeric_limits<Bits>::max())
      error_at(at, fmt::format("expected {} hex digits, found '{}'", 2 * sizeof(Bits), digits.substr(0, 40)));
    return static_cast<Bits>(out);
  }
  double real(std::string_view digits, std::size_t at) const {
    if (digits.starts_with("0x")) return std::bit_cast<double>(bits<std::uint64_t>(digits, at));
    return number<double>(digits, at, "a number");
  }

  static int hex_digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; }

  // The escaped text up to `end` (not consumed); at most one line.
  std::string unescape(char end) {
    std::string out;
    while (at_ < text_.size() && text_[at_] != end) {
      char c = text_[at_];
      if (c == '\n') error(fmt::format("'{}'", end), "the end of the line");
      ++at_;
      if (c == '\\') {
        const char kind = at_ < text_.size() ? text_[at_] : '\0';
        if (kind == 'x' && at_ + 2 < text_.size() && hex_digit(text_[at_ + 1]) >= 0 && hex_digit(text_[at_ + 2]) >= 0) {
          c = static_cast<char>(hex_digit(text_[at_ + 1]) * 16 + hex_digit(text_[at_ + 2]));
          at_ += 3;
        } else if (kind == '"' || kind == '\\') {
          c = kind;
          ++at_;
        } else {
          error("one of \\\\ \\\" \\x00", found());
        }
      }
      out += c;
    }
    return out;
  }
  std::string string() {
    expect('"');
    std::string out = unescape('"');
    expect('"');
    return out;
  }

  // ---- types, values -------------------------------------------------------------------------------
  DType dtype() {
    skip_space();
    const std::size_t at = at_;
    const std::string_view text = word("a dtype");
    return at_place(at, [&] { return parse_dtype(text); });
  }
  Type type() { return type_of(dtype()); }
  Type type_of(DType dtype) {
    Type out{dtype, Shape{}};
    expect('[');
    const std::size_t at = at_;
    if (!accept(']')) {
      do {
        skip_space();
        const std::size_t dim_at = at_;
        std::string_view size = word("a size");
        DimName label;
        if (accept(':')) {
          if (size.size() > kMaxDimName) error_at(dim_at, "this dim name is too long");
          if (dim_names_.insert(std::string(size)).second && dim_names_.size() > kMaxDimNames)
            error_at(dim_at, fmt::format("more than {} different dim names", kMaxDimNames));
          label = DimName(size);
          size = word("a size");
        }
        const auto n = number<std::int64_t>(size, dim_at, "a size");
        at_place(dim_at, [&] { out.shape.append(Dim(n, label)); });
      } while (accept(','));
      expect(']');
    }
    at_place(at, [&] {
      std::int64_t bytes = 0;
      if (__builtin_mul_overflow(out.elements(), std::int64_t{8}, &bytes)) fail("{} is too large", out.str());
    });
    return out;
  }

  template <class T>
  T element() {
    skip_space();
    const std::size_t at = at_;
    const std::string_view digits = word("an element");
    if constexpr (requires(T v) { v.to_float(); }) {
      if (digits.starts_with("0x")) return T{bits<decltype(T::bits)>(digits, at)};
      return T::from_float(number<float>(digits, at, "a number"));
    } else if constexpr (std::is_same_v<T, float>) {
      if (digits.starts_with("0x")) return std::bit_cast<float>(bits<std::uint32_t>(digits, at));
      return number<float>(digits, at, "a number");
    } else if constexpr (std::is_same_v<T, double>) {
      return real(digits, at);
    } else if constexpr (std::is_same_v<T, bool>) {
      if (digits != "0" && digits != "1") error_at(at, fmt::format("expected 0 or 1, found '{}'", digits.substr(0, 40)));
      return digits == "1";
    } else {
      return number<T>(digits, at, fmt::format("{} {}", sizeof(T) == 1 ? "a small" : "an", "integer"));
    }
  }

  Tensor tensor(DType element_type) {
    const Type kind = type_of(element_type);
    const char next = peek();
    const std::size_t at = at_, left = text_.size() - at_;
    if (next == '.') error("the elements of the constant", "'...': this text was shortened for reading");
    if (next == 'x') {
      ++at_;
      expect('"');
      if (kind.bytes() > left / 2) error_at(at, fmt::format("{} needs {} hex digits", kind.str(), 2 * kind.bytes()));
      Tensor out = at_place(at, [&] { return Tensor::uninitialized(kind); });
      auto* to = static_cast<unsigned char*>(out.raw());
      for (std::size_t i = 0; i < kind.bytes(); ++i, at_ += 2) {
        const int high = at_ + 1 < text_.size() ? hex_digit(text_[at_]) : -1, low = high < 0 ? -1 : hex_digit(text_[at_ + 1]);
        if (low < 0) error(fmt::format("{} hex digits", 2 * kind.bytes()), found());
        to[i] = static_cast<unsigned char>(high * 16 + low);
        if (kind.dtype == DType::boolean && to[i] > 1) error("00 or 01", found());
      }
      if (at_ >= text_.size() || text_[at_] != '"') error("'\"'", found());
      ++at_;
      return out;
    }
    expect('{');
    if (kind.elements() > static_cast<std::int64_t>(left))
      error_at(at, fmt::format("{} needs {} elements", kind.str(), kind.elements()));
    Tensor out = at_place(at, [&] { return Tensor::uninitialized(kind); });
    dispatch(kind.dtype, [&](auto zero) {
      using T = decltype(zero);
      auto to = out.data<T>();
      for (std::size_t i = 0; i < to.size(); ++i) {
        if (i) expect(',');
        to[i] = element<T>();
      }
    });
    expect('}');
    return out;
  }

  AttrValue attribute(int depth) {
    const char c = peek();
    if (c == '"') return string();
    if (c == '[')
      return list<std::int64_t>(
          [&](std::string_view digits, std::size_t at) { return number<std::int64_t>(digits, at, "an integer"); });
    const std::size_t at = at_;
    const std::string_view text = word("a value");
    if (text == "true") return true;
    if (text == "false") return false;
    if (text == "graph") {
      at_ = at;
      return std::make_shared<const Graph>(graph(depth + 1));
    }
    if (text == "reals") return list<double>([&](std::string_view digits, std::size_t place) { return real(digits, place); });
    const bool digit = text[0] == '-' || (text[0] >= '0' && text[0] <= '9');
    if (digit || text == "inf") {
      if (text.starts_with("0x") || text.find_first_of(".en") != std::string_view::npos) return real(text, at);
      return number<std::int64_t>(text, at, "a number");
    }
    const DType element_type = at_place(at, [&] { return parse_dtype(text); });
    if (peek() == '[') return tensor(element_type);
    return element_type;
  }

  template <class T, class F>
  std::vector<T> list(F&& read) {
    std::vector<T> out;
    expect('[');
    if (accept(']')) return out;
    do {
      if (out.size() == kMaxList) error_at(at_, fmt::format("a list of more than {} numbers", kMaxList));
      skip_space();
      const std::size_t at = at_;
      out.push_back(read(word("a number"), at));
    } while (accept(','));
    expect(']');
    return out;
  }

  // ---- graphs --------------------------------------------------------------------------------------
  ValueId operand(const Graph& g) {
    if (accept('_')) return {};
    expect('%');
    const std::size_t at = at_;
    std::string_view text = word("the number of a node");
    ValueId out;
    const std::size_t dot = text.find('.');
    if (dot != std::string_view::npos) {
      out.output = number<std::int32_t>(text.substr(dot + 1), at, "the number of a result");
      text = text.substr(0, dot);
    }
    out.node = number<std::int32_t>(text, at, "the number of a node");
    if (out.node < 0 || out.node >= g.size()) error_at(at, fmt::format("%{} is not an earlier node", out.node));
    const auto results = static_cast<std::int32_t>(g.node(out).outputs.size());
    if (out.output < 0 || out.output >= results)
      error_at(at, fmt::format("%{} has {} results, there is no number {}", out.node, results, out.output));
    return out;
  }

  void node(Graph& g, int depth) {
    const std::size_t number_at = at_;
    if (integer("the number of a node") != g.size()) error_at(number_at, fmt::format("expected node number {}", g.size()));
    if (g.size() >= kMaxNodes) error_at(number_at, fmt::format("more than {} nodes", kMaxNodes));
    expect('=');
    skip_space();
    const std::size_t at = at_;
    const std::string_view op = word("an op");
    if (op == "input" || op == "param" || op == "state") return input(g, op, at);
    const OpDef& def = op == constant_op().name ? constant_op() : *at_place(at, [&] { return &ops_.at(op); });
    std::vector<ValueId> inputs;
    expect('(');
    if (!accept(')')) {
      do {
        if (inputs.size() == kMaxList) error_at(at_, fmt::format("more than {} operands", kMaxList));
        inputs.push_back(operand(g));
      } while (accept(','));
      expect(')');
    }
    Attrs attrs;
    if (accept('{') && !accept('}')) {
      do {
        skip_space();
        const std::size_t key_at = at_;
        const std::string key(word("the name of an attribute"));
        if (attrs.has(key) || attrs.size() >= 64)
          error_at(key_at, fmt::format("the attribute '{}' is given twice, or there are too many", key));
        expect('=');
        attrs.set(key, attribute(depth));
      } while (accept(','));
      expect('}');
    }
    const Value first = at_place(at, [&] { return g.add_ids(def, inputs, std::move(attrs)), g.value({g.size() - 1, 0}); });
    expect(':');
    const auto& types = g.node(first.id()).outputs;
    for (std::size_t k = 0; k < types.size(); ++k) {
      if (k) expect(',');
      skip_space();
      const std::size_t type_at = at_;
      const Type written = type();
      if (written != types[k]) error_at(type_at, fmt::format("{} gives {}, not {}", def.name, types[k].str(), written.str()));
    }
  }

  void input(Graph& g, std::string_view kind, std::size_t at) {
    std::string name = string(), init;
    if (peek() == 'i') {
      if (const std::string_view text = word("'init'"); text != "init")
        error("'init' or ':'", fmt::format("'{}'", text.substr(0, 20)));
      init = string();
    }
    expect(':');
    const Type of = type();
    const InputKind input_kind = kind == "param" ? InputKind::param : kind == "state" ? InputKind::state : InputKind::input;
    at_place(at, [&] { g.input(std::move(name), of, input_kind, std::move(init)); });
  }

  Graph graph(int depth) {
    Graph g;
    skip_space();
    const std::size_t at = at_;
    if (word("'graph'") != "graph") {
      at_ = at;
      error("'graph'", found());
    }
    if (depth > kMaxDepth) error_at(at, fmt::format("graphs are nested deeper than {}", kMaxDepth));
    expect('{');
    while (!accept('}')) {
      const char c = peek();
      const std::size_t line_at = at_;
      if (c == '#') {
        ++at_;
        if (at_ < text_.size() && text_[at_] == ' ') ++at_;
        g.set_current_scope(scope_line());
      } else if (c == '%') {
        ++at_;
        node(g, depth);
      } else {
        const std::string_view what = word("a node, 'output', 'update' or '}'");
        if (what != "output" && what != "update") {
          at_ = line_at;
          error("a node, 'output', 'update' or '}'", found());
        }
        const std::string name = string();
        expect('=');
        const ValueId v = operand(g);
        if (!v.valid()) error_at(line_at, fmt::format("{} '{}' has no value", what, name));
        if (g.outputs().size() >= kMaxList || g.updates().size() >= kMaxList)
          error_at(line_at, fmt::format("more than {} outputs or updates", kMaxList));
        at_place(line_at, [&] { what == "output" ? g.output(name, g.value(v)) : update(g, name, v); });
      }
    }
    g.set_current_scope("");
    return g;
  }

  static void update(Graph& g, const std::string& name, ValueId v) {
    const ValueId state = g.find_input(name);
    if (!state.valid() || g.input_kind(state.node) != InputKind::state) fail("there is no state '{}' to update", name);
    for (const StateUpdate& u : g.updates())
      if (u.state == state.node) fail("the state '{}' is updated twice", name);
    g.set_update(g.value(state), g.value(v));
  }

  std::string scope_line() {
    const std::size_t end = std::min(text_.find('\n', at_), text_.size());
    Parser line(text_.substr(0, end), ops_);  // same offsets, so that errors have the right place
    line.at_ = at_;
    std::string out = line.unescape('\0');
    if (line.at_ != end) error_at(line.at_, "a scope cannot hold a zero byte");
    at_ = end;
    return out;
  }

  std::string_view text_;
  const OpTable& ops_;
  std::size_t at_ = 0;
  std::set<std::string> dim_names_;
};

}  // namespace

Graph parse_graph(std::string_view text, const OpTable& ops) { return Parser(text, ops).run(); }

}  // namespace rhetor
