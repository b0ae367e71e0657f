#include "tensor/safetensors.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "base/file.h"

namespace rhetor {
namespace {

constexpr std::uint64_t kMaxHeader = 100'000'000;  // the reference implementation's bound
constexpr std::size_t kAlignment = 64;             // where the data of a file we write begins

struct DTypeName {
  std::string_view file;
  DType dtype;
};
constexpr DTypeName kNames[] = {{"F64", DType::f64},        {"F32", DType::f32},       {"F16", DType::f16},
                                {"BF16", DType::bf16},      {"I64", DType::i64},       {"I32", DType::i32},
                                {"I8", DType::i8},          {"U8", DType::u8},         {"BOOL", DType::boolean},
                                {"F8_E4M3", DType::f8e4m3}, {"F8_E5M2", DType::f8e5m2}};

std::optional<DType> parse_name(std::string_view text) {
  for (const DTypeName& entry : kNames)
    if (entry.file == text) return entry.dtype;
  return std::nullopt;
}
std::string_view file_name(DType dtype) {
  for (const DTypeName& entry : kNames)
    if (entry.dtype == dtype) return entry.file;
  return "";
}

struct Entry {
  std::string name, dtype;
  std::vector<std::uint64_t> shape, offsets;
  bool has_dtype = false, has_shape = false, has_offsets = false;
};

// Reads the header as a stream of events, so that duplicate names and unexpected values are seen (a JSON tree would drop
// them) and nothing grows faster than the text. Stops at the first thing that has no place in a header.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;
  std::string problem;

  bool key(string_t& text) override {
    if (depth_ == 1) {
      if (!names_.insert(text).second) return stop(fmt::format("the name '{}' appears twice", text));
      in_metadata_ = text == "__metadata__";
      if (!in_metadata_) entries.push_back({.name = text, .dtype = {}, .shape = {}, .offsets = {}});
    } else if (in_metadata_) {
      if (metadata.contains(text)) return stop(fmt::format("the metadata '{}' appears twice", text));
    } else {
      Entry& entry = entries.back();
      bool* seen = text == "dtype"          ? &entry.has_dtype
                   : text == "shape"        ? &entry.has_shape
                   : text == "data_offsets" ? &entry.has_offsets
                                            : nullptr;
      if (!seen) return stop(fmt::format("tensor '{}' has the unknown field '{}'", entry.name, text));
      if (*seen) return stop(fmt::format("tensor '{}' has the field '{}' twice", entry.name, text));
      *seen = true;
    }
    key_ = text;
    return true;
  }
  bool string(string_t& text) override {
    if (depth_ == 2 && in_metadata_) metadata[key_] = text;
    else if (depth_ == 2 && key_ == "dtype") entries.back().dtype = text;
    else return unexpected("a string");
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (!in_array_) return unexpected("a number");
    auto& list = key_ == "shape" ? entries.back().shape : entries.back().offsets;
    if (list.size() >= Shape::kMaxRank)
      return stop(fmt::format("'{}' of tensor '{}' has more than {} numbers", key_, entries.back().name, Shape::kMaxRank));
    list.push_back(value);
    return true;
  }
  bool start_object(std::size_t) override {
    if (in_array_ || depth_ == 2) return unexpected("an object");
    ++depth_;
    return true;
  }
  bool end_object() override {
    --depth_;
    return true;
  }
  bool start_array(std::size_t) override {
    if (depth_ != 2 || in_metadata_ || in_array_ || key_ == "dtype") return unexpected("a list");
    return in_array_ = true;
  }
  bool end_array() override {
    in_array_ = false;
    return true;
  }
  bool number_integer(number_integer_t) override { return unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { return unexpected("a fraction"); }
  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("true or false"); }
  bool binary(binary_t&) override { return unexpected("binary data"); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return stop(fmt::format("the header is not JSON at byte {}", position));
  }

 private:
  bool stop(std::string what) {
    if (problem.empty()) problem = std::move(what);
    return false;
  }
  bool unexpected(std::string_view what) {
    return stop(depth_ == 0 ? fmt::format("the header is {}, expected an object", what)
                            : fmt::format("'{}' has {} where the format has none", key_, what));
  }
  int depth_ = 0;
  bool in_array_ = false, in_metadata_ = false;
  std::string key_;
  std::set<std::string> names_;
};

struct Range {
  std::uint64_t begin, end;
  const Entry* entry;
};

Type type_of(const Entry& entry, const std::string& file) {
  const auto dtype = parse_name(entry.dtype);
  if (!dtype) {
    std::string known;
    for (const DTypeName& name : kNames) known.append(known.empty() ? "" : ", ").append(name.file);
    fail("{}: tensor '{}' has the dtype '{}'; supported are {}", file, entry.name, entry.dtype, known);
  }
  Shape shape;
  std::uint64_t bytes = byte_size(*dtype);
  bool empty = false, overflow = false;
  for (const std::uint64_t size : entry.shape) {
    if (size > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      fail("{}: tensor '{}' has a dim of size {}", file, entry.name, size);
    shape.append(Dim(static_cast<std::int64_t>(size)));
    empty |= size == 0;
    overflow |= __builtin_mul_overflow(bytes, size, &bytes);
  }
  // A zero later in the list hides an overflow before it; strides would still overflow.
  if (overflow) fail("{}: the shape {} of tensor '{}' has more bytes than a file can hold", file, shape.str(), entry.name);
  if (entry.offsets.size() != 2 || entry.offsets[0] > entry.offsets[1])
    fail("{}: data_offsets of tensor '{}' must be two growing numbers", file, entry.name);
  if (entry.offsets[1] - entry.offsets[0] != (empty ? 0 : bytes))
    fail("{}: tensor '{}' ({} {}) needs {} bytes, its data_offsets span {}", file, entry.name, entry.dtype, shape.str(),
         empty ? 0 : bytes, entry.offsets[1] - entry.offsets[0]);
  return {*dtype, shape};
}

// Ranges must tile the data: no overlap, no gap, nothing left over.
void check_tiling(std::vector<Range> ranges, std::uint64_t size, const std::string& file) {
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  std::uint64_t at = 0;
  const Entry* before = nullptr;
  for (const Range& range : ranges) {
    const std::string previous = before ? fmt::format("tensor '{}'", before->name) : std::string("the header");
    if (range.end > size)
      fail("{}: tensor '{}' ends at byte {} of the data, but there are only {}; the file is truncated or its header wrong", file,
           range.entry->name, range.end, size);
    if (range.begin < at) fail("{}: the data of tensor '{}' overlaps {}", file, range.entry->name, previous);
    if (range.begin > at)
      fail("{}: {} bytes between {} and tensor '{}' belong to nothing", file, range.begin - at, previous, range.entry->name);
    at = range.end;
    before = range.entry;
  }
  if (at != size) fail("{}: {} bytes after the last tensor belong to nothing", file, size - at);
}

}  // namespace

Safetensors parse_safetensors(std::span<const std::byte> bytes, const std::string& name, std::shared_ptr<const void> owner) {
  if (bytes.size() < 8) fail("{}: {} bytes are too few for a safetensors file", name, bytes.size());
  std::uint64_t header = 0;
  for (int i = 7; i >= 0; --i) header = header << 8 | static_cast<std::uint64_t>(bytes[static_cast<std::size_t>(i)]);
  if (header > kMaxHeader || header > bytes.size() - 8)
    fail("{}: the header claims {} bytes, the file has {} and the limit is {}; it is truncated or no safetensors file", name,
         header, bytes.size() - 8, kMaxHeader);
  const auto* text = reinterpret_cast<const char*>(bytes.data()) + 8;
  if (header == 0 || text[0] != '{') fail("{}: the header does not begin with '{{'; this is no safetensors file", name);

  HeaderReader reader;
  if (!nlohmann::json::sax_parse(text, text + header, &reader)) fail("{}: {}", name, reader.problem);
  const std::span<const std::byte> data = bytes.subspan(8 + header);
  Safetensors out;
  out.metadata = std::move(reader.metadata);
  std::vector<Range> ranges;
  std::vector<Type> types;
  for (const Entry& entry : reader.entries) {
    types.push_back(type_of(entry, name));
    ranges.push_back({entry.offsets[0], entry.offsets[1], &entry});
  }
  check_tiling(ranges, data.size(), name);

  for (std::size_t k = 0; k < types.size(); ++k) {
    const Type& type = types[k];
    const std::byte* at = data.data() + ranges[k].begin;
    Tensor tensor;
    if (type.bytes() > 0 && reinterpret_cast<std::uintptr_t>(at) % byte_size(type.dtype) == 0) {
      tensor = Tensor::view(type, const_cast<std::byte*>(at), owner);  // read-only memory; nobody writes to loaded weights
    } else {
      tensor = Tensor::uninitialized(type);
      if (type.bytes()) std::memcpy(tensor.raw(), at, type.bytes());
    }
    if (type.dtype == DType::boolean)
      for (std::size_t i = 0; i < type.bytes(); ++i)
        if (at[i] > std::byte{1})
          fail("{}: tensor '{}' holds the byte {} where a bool is 0 or 1", name, ranges[k].entry->name, static_cast<int>(at[i]));
    out.tensors.emplace(ranges[k].entry->name, std::move(tensor));
  }
  return out;
}

Safetensors load_safetensors(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  return parse_safetensors(file->bytes(), path.string(), file);
}

void save_safetensors(const std::filesystem::path& path, const std::map<std::string, Tensor>& tensors,
                      const std::map<std::string, std::string>& metadata) {
  // Widest elements first: every tensor is then aligned to its own elements, without gaps.
  std::vector<const std::pair<const std::string, Tensor>*> order;
  for (const auto& item : tensors) {
    if (!item.second.defined()) fail(ErrorKind::internal, "{}: tensor '{}' has no data", path.string(), item.first);
    if (item.first == "__metadata__") fail("{}: '__metadata__' cannot name a tensor", path.string());
    order.push_back(&item);
  }
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return byte_size(a->second.dtype()) > byte_size(b->second.dtype());
  });
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t at = 0;
  for (const auto* item : order) {
    const Tensor& tensor = item->second;
    header[item->first] = {
        {"dtype", file_name(tensor.dtype())}, {"shape", tensor.shape().sizes()}, {"data_offsets", {at, at + tensor.bytes()}}};
    at += tensor.bytes();
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception&) {
    fail("{}: a tensor name or a metadata text is not valid UTF-8", path.string());
  }
  text.append((kAlignment - (8 + text.size()) % kAlignment) % kAlignment, ' ');
  if (text.size() > kMaxHeader)
    fail("{}: the header would have {} bytes, the limit is {}", path.string(), text.size(), kMaxHeader);

  AtomicFile file(path);
  std::string size(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) size[i] = static_cast<char>(text.size() >> 8 * i & 255);
  file.write(size);
  file.write(text);
  for (const auto* item : order)
    file.write(std::span(static_cast<const std::byte*>(item->second.raw()), item->second.bytes()));
  file.commit();
}

}  // namespace rhetor
