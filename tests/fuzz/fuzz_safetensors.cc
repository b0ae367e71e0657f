// Any bytes as a safetensors file: refused with an Error, or tensors that lie inside the bytes.
#include <filesystem>
#include <memory>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "seeds.h"
#include "tensor/safetensors.h"

using namespace rhetor;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // An own allocation of just this size: a read past its end is seen by the sanitizer.
  const auto owner = std::make_shared<std::vector<std::byte>>(size);
  for (std::size_t i = 0; i < size; ++i) (*owner)[i] = static_cast<std::byte>(data[i]);
  try {
    const Safetensors file = parse_safetensors({owner->data(), size}, "fuzz", owner);
    std::size_t bytes = 0;
    unsigned sum = 0;
    for (const auto& [name, tensor] : file.tensors) {
      bytes += tensor.bytes();
      for (std::size_t i = 0; i < tensor.bytes(); ++i) sum += static_cast<const unsigned char*>(tensor.raw())[i];
      require(name != "__metadata__");
    }
    require(bytes <= size && sum < 256u * size + 1);
  } catch (const Error& error) {
    require(error.kind() == ErrorKind::invalid);
  }
  return 0;
}

std::vector<std::string> fuzz_seeds() {
  const std::filesystem::path path = std::filesystem::temp_directory_path() / ("rhetor_fuzz_" + std::to_string(::getpid()) + ".safetensors");
  std::vector<std::string> seeds = {"", std::string("\x02\0\0\0\0\0\0\0{}", 10), std::string(8, '\xff') + "{}"};
  const std::map<std::string, Tensor> tensors = {{"h.0.weight", Tensor(DType::f32, Shape{2, 3})}, {"flags", Tensor(DType::boolean, Shape{5})},
                                                 {"half", Tensor(DType::bf16, Shape{3})},         {"none", Tensor(DType::i64, Shape{0, 4})}};
  save_safetensors(path, tensors, {{"format", "pt"}, {"note", "small"}});
  seeds.push_back(read_file(path));
  save_safetensors(path, {{"x", Tensor(DType::i8, Shape{1})}});
  seeds.push_back(read_file(path));
  std::filesystem::remove(path);
  return seeds;
}
