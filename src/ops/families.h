// The op families: one file each, each exporting its OpDefs. Only registry.cc reads this.
#pragma once

#include <vector>

#include "graph/op.h"

namespace rhetor {

const std::vector<const OpDef*>& pointwise_ops();
const std::vector<const OpDef*>& layout_ops();
const std::vector<const OpDef*>& reduce_ops();
const std::vector<const OpDef*>& cast_ops();
const std::vector<const OpDef*>& float8_ops();
const std::vector<const OpDef*>& random_ops();
const std::vector<const OpDef*>& collective_ops();
const std::vector<const OpDef*>& fused_ops();
const std::vector<const OpDef*>& matmul_ops();
const std::vector<const OpDef*>& int4_ops();
const std::vector<const OpDef*>& conv_ops();
const std::vector<const OpDef*>& softmax_ops();
const std::vector<const OpDef*>& norm_ops();
const std::vector<const OpDef*>& attention_ops();
const std::vector<const OpDef*>& embedding_ops();
const std::vector<const OpDef*>& loss_ops();
const std::vector<const OpDef*>& optimizer_ops();

}  // namespace rhetor
