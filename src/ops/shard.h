// How the dims of an op's operands and results relate, read from OpDef.shard.
//
// A rule is "operands -> results | sum factors", terms separated by commas, one word a dim:
//   m k, k n -> m n | sum k     dims that share a word are one *factor* and are split together; a factor
//                               under `sum` may be split too, and then each rank holds a partial sum
//   _                           a dim that cannot be split
//   ...                         any number of leading dims, aligned at the right in all terms that write it, as in numpy: a
//                               dim of size 1 where another term has more cannot be split in that term
//   ...!axis                    as `...`, but the dims named by the attribute `axis` (an integer or a list;
//                               negative counts from the end) cannot be split
//   ...%before                  as `...`, but dims whose entry in the integer list `before` is not 0 cannot be split
//   ...^                        as `...`, but only the outermost dim can be split (the elements are numbered: attribute `offset`)
//   ...-axes                    in a result: without the dims named by the attribute (kept as `_` where the
//                               attribute keep_dims is true)
//   ...@perm                    in a result: dims permuted by the attribute
//   ...~                        in a result: dims regrouped (reshape); the outermost dims of groups that hold the same
//                               elements are one factor, though their sizes differ
//   (nothing)                   a term of rank 0; absent operands are of rank 0 too
//   sum ...                     all leading dims are summed
//   sum @axes                   the dims named by the attribute, of operand 0, are summed
// Alternatives by boolean attributes are separated by ';' and tried in order, the guard before ':':
//   transpose_b: ... m k, n k -> ... m n | sum k; ... m k, k n -> ... m n | sum k      ('!' negates a guard)
// A variadic tail operand ('*') repeats the last operand term. An empty rule: all data on one rank. An integer list called
// `shape` holds the sizes of result 0 and is split with them, and an integer `offset` moves by the elements of the parts before
// (local_attrs).
#pragma once

#include <string>
#include <vector>

#include "graph/op.h"

namespace rhetor {

struct ShardRule {
  // Per operand / result and dim: the factor's number, or -1 for a dim that cannot be split.
  std::vector<std::vector<int>> operands, results;
  std::vector<std::string> factors;  // names, by number
  std::vector<int> summed;           // factors whose split leaves partial sums
};

// The rule of one node; fails (internal: the op is misdescribed) if it does not fit the types. An op whose rule is empty has
// no factors.
ShardRule shard_rule(const OpDef& op, std::span<const Type> in, std::span<const Type> out, const Attrs& attrs);

// The attributes of one rank's node when its results have the types `out` and the outermost dim of result 0 is part `part`.
Attrs local_attrs(const OpDef& op, const Attrs& attrs, std::span<const Type> out, std::int64_t part = 0);

}  // namespace rhetor
