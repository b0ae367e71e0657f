// safetensors files: read by memory map, written as a stream and atomically.
// Format: u64 little-endian header size, JSON header {name: {dtype, shape, data_offsets}}, data.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace rhetor {

struct Safetensors {
  std::map<std::string, Tensor> tensors;        // views of the mapped file
  std::map<std::string, std::string> metadata;  // "__metadata__"
};

// Every header field is checked against the file before any tensor is made: truncated, overlapping, oversized or misdescribed
// data fails naming the file and the tensor. Tensors are aligned views (copied only where the file misaligns them).
Safetensors load_safetensors(const std::filesystem::path& path);
// The same from bytes in memory (fuzzing); `name` is used in messages.
Safetensors parse_safetensors(std::span<const std::byte> bytes, const std::string& name,
                              std::shared_ptr<const void> owner);

void save_safetensors(const std::filesystem::path& path, const std::map<std::string, Tensor>& tensors,
                      const std::map<std::string, std::string>& metadata = {});

}  // namespace rhetor
