// Low-rank adapters: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021. A linear layer y = x W of a finished
// model becomes y = x W + (alpha / rank) (x A^T) B^T with A [rank,in] and B [out,rank]; W stays, A and B are trained. B begins at
// zero, so the adapted model begins as the finished one.
//
// An adapter folder holds adapter_config.json and adapter_model.safetensors in the names and layout of the PEFT library, and our
// config.json and tokenizer.json. load_model() reads it as the merged model.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "models/model.h"

namespace rhetor {

struct LoraOptions {
  std::int64_t rank = 0;  // 0 = off
  double alpha = 0;       // the factor is alpha / rank; 0 = 2 rank
  double dropout = 0;     // of x before A, in training
  // Linear layers by the last part of their name ("q_proj") or more of it; empty = the attention's queries and values, "all" = every
  // linear layer of the blocks.
  std::vector<std::string> targets;

  double factor() const { return (alpha > 0 ? alpha : 2.0 * static_cast<double>(rank)) / static_cast<double>(rank); }
};

// The graph with adapters at the linear layers that `options` names: states "LAYER.lora_A.weight" and "LAYER.lora_B.weight".
// Parameters that `trained` accepts become states too, the others stay parameters. Fails, with the names there are, if a target
// matches nothing.
Graph add_lora(const Graph& graph, const LoraOptions& options, const std::function<bool(const std::string&)>& trained);

// True for the weights of a fine-tuning head, which have no finished values to adapt and are trained whole ("modules_to_save").
bool is_head_weight(const std::string& name);

struct Adapter {
  ModelConfig config;      // of the merged model
  LoraOptions options;
  std::string base;        // the model folder that it adapts
  std::string base_hash;   // weights_hash() of that model; "" = not known
  Weights weights;         // by the names add_lora() gives them, and whole weights of heads
};
bool is_adapter_folder(const std::filesystem::path& folder);
// Written file by file, adapter_config.json last; until then the folder is none.
void save_adapter(const std::filesystem::path& folder, const Adapter& adapter, const Tokenizer* tokenizer);
// Fails naming the file and the tensor. `family` decides how PEFT's names are read where the folder has no config.json of ours.
Adapter load_adapter(const std::filesystem::path& folder);
// W + factor B A for every adapted layer; the other weights are shared. Fails naming a layer the base lacks or whose shape disagrees.
Model merge_adapter(const Model& base, const Adapter& adapter);
// The model of an adapter folder merged into `base` (null: the folder its adapter_config.json names).
ModelPtr load_merged(const std::filesystem::path& folder, const ModelPtr& base = nullptr);

// Of names, types and bytes, in the order of the names: independent of where a file puts them.
std::string weights_hash(const Weights& weights);

}  // namespace rhetor
