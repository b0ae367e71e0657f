#include "ops/registry.h"

#include "ops/families.h"

namespace rhetor {

const OpTable& all_ops() {
  static const OpTable table = [] {
    std::vector<const OpDef*> ops{&input_op(), &constant_op()};
    for (const auto* family :
         {&pointwise_ops(), &layout_ops(), &reduce_ops(), &cast_ops(), &float8_ops(), &random_ops(), &collective_ops(), &fused_ops(),
          &matmul_ops(), &int4_ops(), &conv_ops(), &softmax_ops(), &norm_ops(), &attention_ops(), &embedding_ops(), &loss_ops(),
          &optimizer_ops()})
      ops.insert(ops.end(), family->begin(), family->end());
    return OpTable(std::move(ops));
  }();
  return table;
}

}  // namespace rhetor
