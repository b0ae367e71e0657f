// The forward graphs of the families; registry.cc lists them.
#pragma once

#include "models/model.h"

namespace rhetor {

Graph build_gpt2(const ModelConfig& config, const BuildSpec& spec);
Graph build_llama(const ModelConfig& config, const BuildSpec& spec);
Graph build_bert(const ModelConfig& config, const BuildSpec& spec);
Graph build_t5(const ModelConfig& config, const BuildSpec& spec);

}  // namespace rhetor
