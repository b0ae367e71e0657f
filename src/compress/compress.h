// Model compression: methods that drive passes and report what they cost and gain.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "models/model.h"

namespace rhetor {

struct CompressReport {
  std::uint64_t bytes_before = 0, bytes_after = 0;
  // On the evaluation text: mean token loss, of a bert model mean masked-token loss. NaN if not measured; loss_note then says why.
  double loss_before = 0, loss_after = 0;
  double tokens_per_s_before = 0, tokens_per_s_after = 0;  // greedy decode, batch 1; an encoder: its tokens over its time
  double latency_ms_before = 0, latency_ms_after = 0;      // p50 of one run
  bool encoder = false;         // a run is a pass over run_tokens tokens (bert), not the decoding of one
  std::int64_t run_tokens = 1;
  std::string loss_note;
};

// Per-channel symmetric int8 weights, activations quantised per row at run time: every matrix that a matmul reads (a tied
// embedding too); other embeddings, biases and norms stay as they are.
// Weight "x" [k,n] or [n,k] becomes "x.int8" i8 [n,k] and "x.scale" f32 [n].
Model quantize_int8(const Model& model);
// Symmetric int4 in groups of 32 weights along the summed dim, an f16 scale a group, chosen for the least square error. Activations are
// quantised to int8 by the same groups at run time. What holds the vocabulary (head, tied embedding) is int8 as above unless `head`.
// Weight "x" becomes "x.int4" u8 [n,k/2] and "x.scale" f16 [n,k/32].
Model quantize_int4(const Model& model, bool head = false);

// Compresses `input` into `output` by one of the functions above and measures both; `text` (may be empty) is the evaluation text.
CompressReport compress(const std::filesystem::path& input, const std::filesystem::path& output, const std::filesystem::path& text,
                        const std::function<Model(const Model&)>& quantize);
inline CompressReport compress_int8(const std::filesystem::path& input, const std::filesystem::path& output, const std::filesystem::path& text) {
  return compress(input, output, text, quantize_int8);
}

}  // namespace rhetor
