// Every op builder: free functions on Value that model and pass code call. The OpDefs live one family a
// file; registry.h lists them. Binary builders broadcast their operands (numpy rules) by inserting
// broadcast_to. All fail with Error{invalid} naming the op and the operand types when shapes disagree.
// Shapes are written [B,S,H,D]: batch, sequence, heads, head dim.
#pragma once

#include <optional>
#include <vector>

#include "graph/graph.h"

namespace rhetor {

// ---- pointwise.cc: one table ---------------------------------------------------------------------
Value neg(Value x);
Value abs(Value x);
Value sign(Value x);
Value exp(Value x);
Value log(Value x);
Value sqrt(Value x);
Value rsqrt(Value x);
Value reciprocal(Value x);
Value square(Value x);
Value sin(Value x);
Value cos(Value x);
Value tanh(Value x);
Value erf(Value x);
Value sigmoid(Value x);
Value relu(Value x);
Value gelu(Value x);       // x/2 (1 + erf(x/sqrt 2)); BERT
Value gelu_tanh(Value x);  // the tanh approximation; GPT-2
Value silu(Value x);       // x sigmoid(x)
Value floor(Value x);
Value round(Value x);      // half to even
Value is_finite(Value x);  // bool
Value logical_not(Value x);
Value add(Value a, Value b);
Value sub(Value a, Value b);
Value mul(Value a, Value b);
Value div(Value a, Value b);
Value pow(Value a, Value b);
Value maximum(Value a, Value b);
Value minimum(Value a, Value b);
Value equal(Value a, Value b);  // comparisons give bool
Value less(Value a, Value b);
Value less_equal(Value a, Value b);
Value logical_and(Value a, Value b);
Value logical_or(Value a, Value b);
Value where(Value condition, Value a, Value b);
// With a scalar on the right, in the dtype of `a`.
Value add(Value a, double b);
Value mul(Value a, double b);
Value full_like(Value x, double value);              // constant broadcast to x's type
Value scalar(Graph& g, DType dtype, double value);   // rank-0 constant

// ---- layout.cc -----------------------------------------------------------------------------------
Value broadcast_to(Value x, Shape shape);
Value reshape(Value x, Shape shape);                 // same element count
Value transpose(Value x, std::vector<std::int64_t> perm);
Value slice(Value x, int axis, std::int64_t begin, std::int64_t end, std::int64_t step = 1);  // [begin, end)
Value concat(const std::vector<Value>& parts, int axis);
Value pad(Value x, std::vector<std::int64_t> before, std::vector<std::int64_t> after, double value = 0);
Value iota(Graph& g, Type type, int axis);           // 0, 1, 2, ... along axis
std::vector<Value> split(Value x, const std::vector<std::int64_t>& sizes, int axis);  // slices

// ---- reduce.cc -----------------------------------------------------------------------------------
Value reduce_sum(Value x, std::vector<std::int64_t> axes, bool keep_dims = false);
Value reduce_max(Value x, std::vector<std::int64_t> axes, bool keep_dims = false);
Value reduce_min(Value x, std::vector<std::int64_t> axes, bool keep_dims = false);
Value reduce_mean(Value x, std::vector<std::int64_t> axes, bool keep_dims = false);
Value argmax(Value x, int axis);                     // i32, first maximum
Value cumsum(Value x, int axis);

// ---- matmul.cc -----------------------------------------------------------------------------------
// a [..., m, k] (or [..., k, m] if transpose_a) times b [..., k, n] (or [..., n, k]). Leading dims of b equal
// a's, or b has rank 2 and is shared. Result [..., m, n] in `out` dtype (default: a's), accumulated in f32 or wider.
Value matmul(Value a, Value b, bool transpose_a = false, bool transpose_b = false,
             std::optional<DType> out = std::nullopt);
// xq [m,k] i8 with x_scale [m] f32, wq [n,k] i8 (row = output channel) with w_scale [n] f32:
// out[m,n] = x_scale[m] w_scale[n] sum_k xq wq, in `out` dtype. Leading dims of xq and x_scale agree.
Value matmul_i8(Value xq, Value x_scale, Value wq, Value w_scale, DType out = DType::f32);

// ---- conv.cc: NCHW, weights OIHW ------------------------------------------------------------------
struct ConvOptions {
  std::vector<std::int64_t> stride{1, 1}, pad_before{0, 0}, pad_after{0, 0}, dilation{1, 1};
  std::int64_t groups = 1;
};
Value conv2d(Value x, Value w, const ConvOptions& options = {});
Value conv2d_input_grad(Value dy, Value w, Shape x_shape, const ConvOptions& options);
Value conv2d_weight_grad(Value x, Value dy, Shape w_shape, const ConvOptions& options);
struct PoolOptions {
  std::vector<std::int64_t> kernel{2, 2}, stride{2, 2}, pad_before{0, 0}, pad_after{0, 0};
  bool count_padding = false;  // average pooling: does the divisor count padded places?
};
Value max_pool2d(Value x, const PoolOptions& options);
Value max_pool2d_grad(Value x, Value y, Value dy, const PoolOptions& options);
Value avg_pool2d(Value x, const PoolOptions& options);
Value avg_pool2d_grad(Value dy, Shape x_shape, const PoolOptions& options);

// ---- softmax.cc: along the last dim --------------------------------------------------------------
Value softmax(Value x);
Value softmax_grad(Value y, Value dy);
Value log_softmax(Value x);
Value log_softmax_grad(Value y, Value dy);

// ---- norm.cc: along the last dim; statistics in f32 or wider ----------------------------------------
struct NormResult { Value y, mean, rstd; };          // mean, rstd: shape of x without the last dim, f32 (f64 if x is f64)
NormResult layer_norm_full(Value x, Value gamma, Value beta, double eps = 1e-5);
Value layer_norm(Value x, Value gamma, Value beta, double eps = 1e-5);
struct NormGrads { Value dx, dgamma, dbeta; };
NormGrads layer_norm_grad(Value dy, Value x, Value gamma, Value mean, Value rstd);
NormResult rms_norm_full(Value x, Value gamma, double eps = 1e-5);  // mean: no value
Value rms_norm(Value x, Value gamma, double eps = 1e-5);
NormGrads rms_norm_grad(Value dy, Value x, Value gamma, Value rstd);

// ---- attention.cc --------------------------------------------------------------------------------
// q [B,S,H,D], k and v [B,T,G,D] with H a multiple of G (grouped query). lengths (optional) i32 [B]: keys
// j >= lengths[b] are masked (variable length, padding on the right). offsets (optional) i32 [B]: absolute position of q's first
// row; default T - S. causal: key j is visible to query i when j <= i + offset. A row that sees no key gives 0.
// Softmax in f32 or wider. Results: o [B,S,H,D]; lse [B,H,S] f32, log-sum-exp of the scaled scores.
struct AttentionOptions {
  bool causal = false;
  double scale = 0;            // 0 = 1/sqrt(D)
  Value lengths, offsets;
};
struct AttentionResult { Value o, lse; };
AttentionResult attention_full(Value q, Value k, Value v, const AttentionOptions& options = {});
Value attention(Value q, Value k, Value v, const AttentionOptions& options = {});
struct AttentionGrads { Value dq, dk, dv; };
AttentionGrads attention_grad(Value d_o, Value q, Value k, Value v, Value o, Value lse, const AttentionOptions& options);
// cache [B,T,G,D], rows [B,S,G,D], positions i32 [B]: a cache with rows written at [b, positions[b] + s]; rows that would fall
// outside [0, T) are dropped. In place when the cache is a donated state.
Value cache_write(Value cache, Value rows, Value positions);
// x [B,S,H,D] rotated by positions i32 [B,S] (half-split pairs i, i+D/2, as LLaMA in Hugging Face layout); inverse = its gradient.
Value rope(Value x, Value positions, double theta = 10000.0, bool inverse = false);

// ---- embedding.cc --------------------------------------------------------------------------------
Value embedding(Value table, Value ids);             // table [V,C], ids i32|i64 [...] -> [..., C]; ids out of range fail (reference) or read row 0 (kernels)
Value embedding_grad(Value dy, Value ids, std::int64_t rows);  // [rows, C], in f32 or wider
Value gather(Value x, Value indices, int axis);      // numpy take: axis replaced by the dims of indices
Value scatter_add(Value x, Value indices, Value updates, int axis);  // gradient of gather; indices rank 1
Value take_along(Value x, Value indices, int axis);  // numpy take_along_axis
Value put_along_add(Value x, Value indices, Value updates, int axis);  // gradient of take_along
struct TopK { Value values, indices; };
TopK top_k(Value x, std::int64_t k);                 // along the last dim, descending, ties by lower index; indices i32

// ---- loss.cc -------------------------------------------------------------------------------------
// logits [N,V], targets i32 [N] -> loss [N] f32 and lse [N] f32; a target of ignore_index gives loss 0 and gradient 0.
struct CrossEntropyResult { Value loss, lse; };
CrossEntropyResult cross_entropy_full(Value logits, Value targets, std::int64_t ignore_index = -100);
Value cross_entropy(Value logits, Value targets, std::int64_t ignore_index = -100);
Value cross_entropy_grad(Value dloss, Value logits, Value targets, Value lse, std::int64_t ignore_index = -100);
// Mean over the rows that are not ignored (0 if there is none). Scalar f32.
Value mean_cross_entropy(Value logits, Value targets, std::int64_t ignore_index = -100);

// ---- cast.cc -------------------------------------------------------------------------------------
Value cast(Value x, DType dtype);   // x itself if it has this dtype
// Symmetric int8 along the last dim: scale [...] = max|x| / 127 (1 where all are 0), q = round(x / scale), half to even. For a weight [n,k] the scale is per output channel.
struct Quantized { Value q, scale; };
Quantized quantize_rows(Value x);
Value dequantize_rows(Value q, Value scale, DType dtype = DType::f32);

// ---- float8.cc: one scale a tensor, a power of two ---------------------------------------------------------
Quantized quantize_f8(Value x, DType dtype);         // q in f8e4m3 or f8e5m2; scale f32 scalar
Value dequantize_f8(Value q, Value scale, DType dtype = DType::bf16);
// x f32 -> bf16, up or down at random with expectation x; seed is an i64 scalar value, stream a constant of the op.
Value stochastic_round(Value x, Value seed, std::int64_t stream);

// ---- int4.cc: weights in groups of 32 along the last dim, two to a byte ----------------------------------
constexpr std::int64_t kInt4Group = 32;
// xq i8 [..., m, k], x_scale f32 [..., m, k/32], wq u8 [n, k/2], w_scale f16 [n, k/32] -> [..., m, n]
Value matmul_i4(Value xq, Value x_scale, Value wq, Value w_scale, DType out = DType::f32);
// x f32, bf16 or f16 [..., m, k]; weights as above, rounded to its dtype
Value matmul_w4(Value x, Value wq, Value w_scale, DType out = DType::f32);
Value dequantize_i4(Value q, Value scale, DType dtype = DType::f32);  // [..., k/2] u8, [..., k/32] f16 -> [..., k]

// ---- random.cc: counter-based; seed is an i64 scalar value, stream a constant of the op ------------------------
Value random_uniform(Value seed, Type type, std::int64_t stream, double low = 0, double high = 1);
Value random_normal(Value seed, Type type, std::int64_t stream, double mean = 0, double stddev = 1);
// x / (1-p) where random_u32(seed, stream, i) keeps element i, else 0. Its gradient is itself on dy.
Value dropout(Value x, Value seed, double p, std::int64_t stream);

// ---- optimizer.cc: lr and step are f32 scalars; p, m, v f32; g any float dtype -----------------------------------
struct AdamwOptions { double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.0; };
struct AdamwResult { Value p, m, v; };
// Loshchilov & Hutter, "Decoupled weight decay regularization"; bias-corrected with `step` (1 at the first). g is multiplied by g_scale (f32 scalar: clipping, 1/accumulation).
// apply (bool scalar, optional): false leaves everything as it was.
AdamwResult adamw(Value p, Value g, Value m, Value v, Value lr, Value step, Value g_scale, const AdamwOptions& options = {}, Value apply = {});
Value sgd(Value p, Value g, Value lr, Value g_scale);
Value sum_squares(Value x);                          // scalar f32: for gradient norms

// ---- collective.cc: over one mesh axis of `group` ranks --------------------------------------------------
Value all_reduce(Value x, std::string axis, std::int64_t group);
Value all_gather(Value x, int dim, std::string axis, std::int64_t group);
Value reduce_scatter(Value x, int dim, std::string axis, std::int64_t group);
Value all_to_all(Value x, int split_dim, int concat_dim, std::string axis, std::int64_t group);

// ---- fused.cc: what the fusion pass makes ----------------------------------------------------------------
// `body` is a graph whose inputs "0", "1", ... are the operands and whose outputs "0", "1", ... the results.
// `anchor` names the contraction or reduction inside it ("" for purely pointwise). Its reference evaluates the body.
std::vector<Value> fused(Graph& g, const std::vector<Value>& operands, GraphPtr body, std::string anchor);

}  // namespace rhetor
