#include "runtime/plan.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/version.h"
#include "graph/text.h"
#include "graph/verify.h"
#include "ops/registry.h"
#include "runtime/impl.h"

namespace rhetor {
namespace {

using nlohmann::json;

constexpr std::string_view kMagic = "RHETPLAN";
constexpr std::uint32_t kVersion1 = 1;
constexpr std::size_t kFixedHeader = 24;                 // magic, version, reserved, header bytes
constexpr std::size_t kBlock = std::size_t{1} << 20;     // of the checksum
constexpr std::size_t kAlign = 64;
constexpr std::string_view kIsaNames[] = {"avx2", "avx512", "avx512_bf16", "amx"};

std::uint64_t aligned_up(std::uint64_t n) { return (n + kAlign - 1) / kAlign * kAlign; }

// The checksum as a stream.
class Checksum {
 public:
  void add(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      if (block_.empty() && bytes.size() >= kBlock) {
        hash_ = hash64(bytes.first(kBlock), hash_);
        bytes = bytes.subspan(kBlock);
        continue;
      }
      const std::size_t take = std::min(kBlock - block_.size(), bytes.size());
      block_.insert(block_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(take));
      bytes = bytes.subspan(take);
      if (block_.size() == kBlock) flush();
    }
  }
  std::uint64_t finish() {
    if (!block_.empty()) flush();
    return hash_;
  }

 private:
  void flush() {
    hash_ = hash64(block_, hash_);
    block_.clear();
  }
  std::vector<std::byte> block_;
  std::uint64_t hash_ = 0;
};

// ---- saving --------------------------------------------------------------------------------------

// The sections in file order; offsets count from the end of the padded header.
class Sections {
 public:
  json add(std::string text) {
    texts_.push_back(std::make_unique<std::string>(std::move(text)));
    return add(std::as_bytes(std::span(texts_.back()->data(), texts_.back()->size())));
  }
  json add(std::span<const std::byte> bytes) {
    const std::uint64_t offset = aligned_up(end_);
    end_ = offset + bytes.size();
    parts_.push_back({offset, bytes});
    return {{"offset", offset}, {"bytes", bytes.size()}};
  }
  // The index of the tensor in the header's list; equal contents are stored once.
  std::size_t add(const Tensor& tensor) {
    const std::span bytes(static_cast<const std::byte*>(tensor.raw()), tensor.bytes());
    const std::uint64_t key = hash64(bytes);
    for (auto [it, end] = by_hash_.equal_range(key); it != end; ++it) {
      const Tensor& known = tensors_[it->second];
      if (known.type() == tensor.type() && (known.raw() == tensor.raw() || std::memcmp(known.raw(), tensor.raw(), bytes.size()) == 0))
        return it->second;
    }
    json entry = add(bytes);
    entry["dtype"] = name(tensor.dtype());
    entry["shape"] = tensor.shape().sizes();
    header_.push_back(std::move(entry));
    tensors_.push_back(tensor);
    by_hash_.emplace(key, tensors_.size() - 1);
    return tensors_.size() - 1;
  }
  const json& tensors() const { return header_; }

  template <class Write>
  void write(Write&& write) const {
    constexpr std::byte zeros[kAlign] = {};
    std::uint64_t at = 0;
    for (const auto& [offset, bytes] : parts_) {
      write(std::span(zeros, static_cast<std::size_t>(offset - at)));
      write(bytes);
      at = offset + bytes.size();
    }
  }

 private:
  std::uint64_t end_ = 0;
  std::vector<std::pair<std::uint64_t, std::span<const std::byte>>> parts_;
  std::vector<std::unique_ptr<std::string>> texts_;
  std::vector<Tensor> tensors_;
  std::multimap<std::uint64_t, std::size_t> by_hash_;
  json header_ = json::array();
};

json describe(const std::string& name, const Executable& executable, Sections& sections) {
  const Executable::Impl& x = executable.impl();
  if (!x.keeps_weights)
    fail("the executable '{}' has let go of its weights; compile it with CompileOptions.keep_weights to save it in a plan", name);
  json out = {{"name", name}, {"in_place", x.in_place}, {"graph", sections.add(to_text(x.graph))}};
  json kernels = json::array();
  for (const ChosenKernel& chosen : x.kernels) kernels.push_back(chosen.name);
  out["kernels"] = std::move(kernels);
  json weights = json::object();
  for (const auto& [weight, tensor] : x.kept) weights[weight] = sections.add(tensor);
  out["weights"] = std::move(weights);
  return out;
}

// ---- loading -------------------------------------------------------------------------------------

// One file being read; every message names it.
struct Reader {
  std::string name;
  std::shared_ptr<const MappedFile> file;
  std::span<const std::byte> sections;

  template <class... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail("the plan '{}' {}", name, fmt::format(format, std::forward<Args>(args)...));
  }

  const json& field(const json& object, const char* key, json::value_t type) const {
    const auto found = object.is_object() ? object.find(key) : object.end();
    const bool number = type == json::value_t::number_unsigned;
    if (!object.is_object() || found == object.end() || (number ? !found->is_number_unsigned() : found->type() != type))
      refuse("has a header without a proper \"{}\"; write it again", key);
    return *found;
  }

  std::span<const std::byte> section(const json& at) const {
    const auto offset = field(at, "offset", json::value_t::number_unsigned).get<std::uint64_t>();
    const auto bytes = field(at, "bytes", json::value_t::number_unsigned).get<std::uint64_t>();
    if (offset > sections.size() || bytes > sections.size() - offset || offset % kAlign != 0)
      refuse("has a section of {} bytes at {}, outside its {} bytes of sections", bytes, offset, sections.size());
    return sections.subspan(static_cast<std::size_t>(offset), static_cast<std::size_t>(bytes));
  }
  std::string_view text(const json& at) const {
    const auto bytes = section(at);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  Tensor tensor(const json& at) const {
    Type type{parse_dtype(field(at, "dtype", json::value_t::string).get_ref<const std::string&>()), Shape{}};
    const json& sizes = field(at, "shape", json::value_t::array);
    for (const json& size : sizes) {
      if (!size.is_number_unsigned() || size.get<std::uint64_t>() > (std::uint64_t{1} << 48)) refuse("has a tensor of impossible shape");
      type.shape.append(Dim(size.get<std::int64_t>()));
    }
    const auto bytes = section(at);
    if (static_cast<std::uint64_t>(type.elements()) > bytes.size() || type.bytes() != bytes.size())
      refuse("holds {} bytes for a tensor {}", bytes.size(), type.str());
    if (type.dtype == DType::boolean)
      for (const std::byte b : bytes)
        if (b > std::byte{1}) refuse("holds a bool that is neither 0 nor 1");
    return Tensor::view(type, const_cast<std::byte*>(bytes.data()), file);
  }
};

std::span<const std::byte> check_frame(Reader& reader, json& header) {
  const auto bytes = reader.file->bytes();
  if (bytes.size() < kFixedHeader + sizeof(std::uint64_t) || std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0)
    fail("'{}' is not a plan file ({} bytes, no \"{}\" at its start); `rhetor compile` writes plans", reader.name, bytes.size(), kMagic);
  std::uint32_t version = 0;
  std::uint64_t header_bytes = 0, expected = 0;
  std::memcpy(&version, bytes.data() + 8, sizeof version);
  std::memcpy(&header_bytes, bytes.data() + 16, sizeof header_bytes);
  const auto body = bytes.first(bytes.size() - sizeof expected);
  std::memcpy(&expected, bytes.data() + body.size(), sizeof expected);
  Checksum checksum;
  checksum.add(body);
  const bool intact = checksum.finish() == expected;
  if (version != kVersion1)
    reader.refuse("has format version {}{}, this program reads version {}; compile the model again", version,
                  intact ? "" : " and a wrong checksum", kVersion1);
  if (!intact) reader.refuse("is truncated or damaged: its checksum does not match; copy it again or compile the model again");
  if (header_bytes > body.size() - kFixedHeader) reader.refuse("claims a header of {} bytes in {} bytes of file", header_bytes, bytes.size());
  const char* text = reinterpret_cast<const char*>(bytes.data()) + kFixedHeader;
  header = json::parse(text, text + header_bytes, nullptr, false);
  if (header.is_discarded() || !header.is_object()) reader.refuse("has a header that is not JSON");
  const std::uint64_t start = aligned_up(kFixedHeader + header_bytes);
  if (start > body.size()) reader.refuse("ends inside its header");
  return body.subspan(static_cast<std::size_t>(start));
}

std::string device_name(const CudaDevice* device) { return device ? fmt::format("sm_{}", device->compute) : "cpu"; }

// A plan runs on what it was compiled for. Kernels chosen for a newer instruction set or another GPU do not run here.
const CudaDevice* check_machine(const Reader& reader, const json& header, const CudaDevice* asked) {
  if (!asked) asked = default_device();
  const std::string target = header.contains("device") ? reader.field(header, "device", json::value_t::string).get<std::string>().substr(0, 40) : "cpu";
  if (target != "cpu") {
    const CudaDevice* device = asked ? asked : find_device("cuda");
    if (device_name(device) != target)
      reader.refuse("was compiled for a GPU of {} and this one is {}; compile the model again on this machine", target, device_name(device));
    return device;
  }
  if (asked) reader.refuse("was compiled for the CPU; compile the model again with --device cuda");
  const auto& wanted = reader.field(header, "isa", json::value_t::string).get_ref<const std::string&>();
  const auto found = std::find(std::begin(kIsaNames), std::end(kIsaNames), wanted);
  if (found == std::end(kIsaNames)) reader.refuse("needs the unknown instruction set '{}'", wanted.substr(0, 40));
  const auto here = static_cast<std::ptrdiff_t>(cpu_isa());
  if (found - std::begin(kIsaNames) > here)
    reader.refuse("needs {} and this machine has {}; compile the model again on this machine (the plan was made on: {})", wanted,
                  kIsaNames[here], reader.field(header, "cpu", json::value_t::string).get<std::string>().substr(0, 120));
  return nullptr;
}

ExecutablePtr load_executable(const Reader& reader, const json& at, const std::vector<Tensor>& tensors, const CompileOptions& options,
                              const CudaDevice* device) {
  const auto& name = reader.field(at, "name", json::value_t::string).get_ref<const std::string&>();
  Graph graph = parse_graph(reader.text(reader.field(at, "graph", json::value_t::object)), all_ops());
  verify(graph, "loading a plan");
  std::vector<std::string> kernels;
  for (const json& kernel : reader.field(at, "kernels", json::value_t::array)) {
    if (!kernel.is_string()) reader.refuse("has a kernel without a name");
    kernels.push_back(kernel.get<std::string>());
  }
  if (kernels.size() != static_cast<std::size_t>(graph.size()))
    reader.refuse("names {} kernels for the {} nodes of '{}'", kernels.size(), graph.size(), name);
  Weights weights;
  for (const auto& [weight, index] : reader.field(at, "weights", json::value_t::object).items()) {
    if (!index.is_number_unsigned() || index.get<std::uint64_t>() >= tensors.size())
      reader.refuse("names no tensor for the weight '{}'", weight.substr(0, 80));
    const Tensor& tensor = tensors[index.get<std::size_t>()];
    const ValueId input = graph.find_input(weight);
    if (!input.valid() || graph.type(input) != tensor.type())
      reader.refuse("has a weight '{}' ({}) that its graph '{}' does not declare", weight.substr(0, 80), tensor.type().str(), name);
    weights.emplace(weight, aligned(tensor));
  }
  for (const std::int32_t i : graph.input_nodes())
    if (graph.input_kind(i) == InputKind::param && !weights.contains(graph.input_name(i)))
      reader.refuse("lacks the weight '{}' of '{}'", graph.input_name(i).substr(0, 80), name);
  CompileOptions own = options;
  own.device = device;
  own.in_place = reader.field(at, "in_place", json::value_t::boolean).get<bool>();
  return std::make_shared<const Executable>(assemble(std::move(graph), std::move(weights), own, {}, &kernels));
}

}  // namespace

void save_plan(const std::filesystem::path& path, const Plan& plan) {
  Sections sections;
  json executables = json::array(), blobs = json::object();
  const CudaDevice* device = nullptr;
  for (const auto& [name, executable] : plan.executables) {
    executables.push_back(describe(name, *executable, sections));
    device = executable->impl().device;
  }
  for (const auto& [name, content] : plan.blobs) blobs[name] = sections.add(content);
  const json header = {{"engine", kVersion},
                       {"isa", kIsaNames[static_cast<std::size_t>(cpu_isa())]},
                       {"cpu", cpu_description()},
                       {"device", device_name(device)},
                       {"executables", std::move(executables)},
                       {"blobs", std::move(blobs)},
                       {"tensors", sections.tensors()}};
  const std::string text = header.dump(-1, ' ', false, json::error_handler_t::replace);

  AtomicFile file(path);
  Checksum checksum;
  const auto write = [&](std::span<const std::byte> bytes) {
    if (bytes.empty()) return;
    checksum.add(bytes);
    file.write(bytes);
  };
  const auto put = [&](const auto& value) { write(std::as_bytes(std::span(&value, 1))); };
  write(std::as_bytes(std::span(kMagic)));
  put(kVersion1);
  put(std::uint32_t{0});
  put(static_cast<std::uint64_t>(text.size()));
  write(std::as_bytes(std::span(text)));
  const std::string padding(static_cast<std::size_t>(aligned_up(kFixedHeader + text.size()) - kFixedHeader - text.size()), '\0');
  write(std::as_bytes(std::span(padding)));
  sections.write(write);
  const std::uint64_t sum = checksum.finish();
  file.write(std::as_bytes(std::span(&sum, 1)));
  file.commit();
}

Plan load_plan(const std::filesystem::path& path, const CompileOptions& options) {
  Reader reader{.name = path.string(), .file = MappedFile::open(path), .sections = {}};
  json header;
  reader.sections = check_frame(reader, header);
  const CudaDevice* device = check_machine(reader, header, options.device);
  Plan plan;
  std::vector<Tensor> tensors;
  try {
    for (const json& at : reader.field(header, "tensors", json::value_t::array)) {
      tensors.push_back(reader.tensor(at));
      plan.weight_bytes += tensors.back().bytes();
    }
    for (const auto& [name, at] : reader.field(header, "blobs", json::value_t::object).items()) plan.blobs[name] = reader.text(at);
    for (const json& at : reader.field(header, "executables", json::value_t::array))
      plan.executables[reader.field(at, "name", json::value_t::string).get<std::string>()] = load_executable(reader, at, tensors, options, device);
  } catch (const Error& error) {
    const std::string_view what = error.what();
    if (what.find(reader.name) != std::string_view::npos) throw;
    fail(ErrorKind::unsupported, "the plan '{}' does not fit this program or machine: {}; compile the model again", reader.name, what);
  }
  return plan;
}

}  // namespace rhetor
