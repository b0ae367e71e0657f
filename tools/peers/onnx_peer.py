"""ONNX Runtime: graphs written with its own fused operators (what its transformer optimiser would make of an export), random weights.
int8 is its dynamic quantisation, int4 its block-wise MatMulNBits."""
import os
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from shapes import Unsupported
from timing import median_ms

MS = "com.microsoft"


class Builder:
    def __init__(self, job):
        self.job, self.shape = job, job.shape
        self.nodes, self.weights, self.count = [], [], 0
        self.pool = np.random.default_rng(1).uniform(-0.03, 0.03, 1 << 22).astype(np.float32)

    def weight(self, *dims, kind=np.float32):
        self.count += 1
        size = int(np.prod(dims))
        if kind == np.float32:
            value = np.resize(np.roll(self.pool, 7919 * self.count), size).reshape(dims)
        else:
            value = np.resize(np.roll(self.pool.view(np.uint8), 7919 * self.count), size).reshape(dims)
        return self.constant(value)

    def constant(self, value):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, op, inputs, outputs=1, domain="", **attributes):
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)] if isinstance(outputs, int) else outputs
        self.nodes.append(helper.make_node(op, inputs, names, domain=domain, **attributes))
        return names[0]

    def linear(self, x, rows, columns):
        """x [.., rows] times a weight [rows, columns]."""
        if self.job.dtype != "int4":
            return self.node("MatMul", [x, self.weight(rows, columns)])
        blocks = rows // 32
        return self.node("MatMulNBits", [x, self.weight(columns, blocks, 16, kind=np.uint8),
                                         self.constant(np.full(columns * blocks, 0.004, np.float32))],
                         domain=MS, K=rows, N=columns, bits=4, block_size=32, accuracy_level=4)

    def save(self, folder, inputs, outputs):
        graph = helper.make_graph(self.nodes, "peer", inputs, outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(MS, 1)], ir_version=8)
        path = os.path.join(folder, "model.onnx")
        onnx.save_model(model, path, save_as_external_data=True, location="weights", size_threshold=1024)
        return path


def integers(name, *dims):
    return helper.make_tensor_value_info(name, TensorProto.INT32, dims)


def floats(name, *dims):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)


def bert(b):
    s, h = b.shape, b.shape["hidden"]
    norm = lambda: (b.weight(h), b.weight(h))  # noqa: E731
    words = b.node("Gather", [b.weight(s["vocab"], h), "ids"])
    places = b.node("Slice", [b.weight(s["context"], h), b.constant(np.array([0])), b.constant(np.array([b.job.seq])), b.constant(np.array([0]))])
    x = b.node("SkipLayerNormalization", [words, b.node("Expand", [places, b.node("Shape", [words])]), *norm(), b.weight(h)], domain=MS, epsilon=1e-12)
    for _ in range(s["layers"]):
        a = b.node("Attention", [x, b.weight(h, 3 * h), b.weight(3 * h)], domain=MS, num_heads=s["heads"])
        x = b.node("SkipLayerNormalization", [b.linear(a, h, h), x, *norm(), b.weight(h)], domain=MS, epsilon=1e-12)
        f = b.node("BiasGelu", [b.linear(x, h, s["ffn"]), b.weight(s["ffn"])], domain=MS)
        x = b.node("SkipLayerNormalization", [b.linear(f, s["ffn"], h), x, *norm(), b.weight(h)], domain=MS, epsilon=1e-12)
    b.node("Identity", [x], ["hidden"])
    return [integers("ids", b.job.batch, b.job.seq)], [floats("hidden", b.job.batch, b.job.seq, h)]


def decoder(b, new, past):
    """`new` tokens after `past` cached ones; keys and values go in and come out as ONNX Runtime's generators do it."""
    s, h, heads = b.shape, b.shape["hidden"], b.shape["heads"]
    llama = s["family"] == "llama"
    x = b.node("Gather", [b.weight(s["vocab"], h), "ids"])
    inputs, outputs = [integers("ids", 1, new)], []
    total = past + new
    if llama:
        angles = np.arange(s["context"])[:, None] * 10000.0 ** (-np.arange(0, h // heads, 2) / (h // heads))[None]
        turn = [b.constant(np.cos(angles).astype(np.float32)), b.constant(np.sin(angles).astype(np.float32))]
        lengths = [b.constant(np.array([total - 1], np.int32)), b.constant(np.array(total, np.int32))]
    else:
        x = b.node("Add", [x, b.weight(new, h)])
    norm = (lambda v: b.node("SimplifiedLayerNormalization", [v, b.weight(h)], axis=-1, epsilon=1e-5)) if llama else (
        lambda v: b.node("LayerNormalization", [v, b.weight(h), b.weight(h)], axis=-1, epsilon=1e-5))
    for i in range(s["layers"]):
        n = norm(x)
        if llama:
            cache = (1, heads, b.job.seq + b.job.tokens, h // heads)
            inputs += [floats(f"past_key{i}", *cache), floats(f"past_value{i}", *cache)]
            outputs += [floats(f"key{i}", *cache), floats(f"value{i}", *cache)]
            qkv = [b.linear(n, h, h) for _ in range(3)]
            a = b.node("GroupQueryAttention", [*qkv, f"past_key{i}", f"past_value{i}", *lengths, *turn], [f"a{i}", f"key{i}", f"value{i}"],
                       domain=MS, num_heads=heads, kv_num_heads=heads, do_rotary=1)
            x = b.node("Add", [x, b.linear(a, h, h)])
            n = norm(x)
            gate = b.linear(n, h, s["ffn"])
            gate = b.node("Mul", [gate, b.node("Sigmoid", [gate])])
            x = b.node("Add", [x, b.linear(b.node("Mul", [gate, b.linear(n, h, s["ffn"])]), s["ffn"], h)])
            continue
        inputs.append(floats(f"past{i}", 2, 1, heads, past, h // heads))
        outputs.append(floats(f"present{i}", 2, 1, heads, total, h // heads))
        if b.job.dtype == "int4":
            raise Unsupported("no fused past with int4")
        a = b.node("Attention", [n, b.weight(h, 3 * h), b.weight(3 * h), "", f"past{i}"], [f"a{i}", f"present{i}"], domain=MS, num_heads=heads,
                   unidirectional=1)
        x = b.node("Add", [x, b.node("Add", [b.linear(a, h, h), b.weight(h)])])
        f = b.node("FastGelu", [b.linear(norm(x), h, s["ffn"]), b.weight(s["ffn"])], domain=MS)
        x = b.node("Add", [x, b.node("Add", [b.linear(f, s["ffn"], h), b.weight(h)])])
    x = b.node("Slice", [x, b.constant(np.array([-1])), b.constant(np.array([1 << 40])), b.constant(np.array([1]))])
    b.node("Identity", [b.linear(norm(x), h, s["vocab"])], ["logits"])
    return inputs, [floats("logits", 1, 1, s["vocab"]), *outputs]


def bind(session, job):
    """Inputs and outputs stay where they are from run to run; a LLaMA's cache is updated in place."""
    binding, kept, rng = session.io_binding(), {}, np.random.default_rng(2)
    for value in session.get_inputs():
        array = rng.integers(0, job.shape["vocab"], value.shape).astype(np.int32) if value.name == "ids" else np.zeros(value.shape, np.float32)
        kept[value.name] = ort.OrtValue.ortvalue_from_numpy(array)
        binding.bind_ortvalue_input(value.name, kept[value.name])
    for value in session.get_outputs():
        source = kept.get("past_" + value.name)
        kept[value.name] = source or ort.OrtValue.ortvalue_from_numpy(np.zeros(value.shape, np.float32))
        binding.bind_ortvalue_output(value.name, kept[value.name])
    return binding, kept


def measure(job):
    if job.kind == "train":
        raise Unsupported("inference only")
    if job.dtype == "bf16":
        raise Unsupported("no bf16 on CPU")
    builder = Builder(job)
    with tempfile.TemporaryDirectory() as folder:
        if job.kind == "encode":
            inputs, outputs = bert(builder)
        else:
            past = job.seq + job.tokens // 2 if job.kind == "decode" else 0
            inputs, outputs = decoder(builder, 1 if job.kind == "decode" else job.seq, past)
        path = builder.save(folder, inputs, outputs)
        if job.dtype == "int8":
            from onnxruntime.quantization import QuantType, quantize_dynamic
            small = os.path.join(folder, "int8.onnx")
            quantize_dynamic(path, small, weight_type=QuantType.QInt8, use_external_data_format=True,
                             op_types_to_quantize=["MatMul", "Attention"], extra_options={"DefaultTensorType": TensorProto.FLOAT})
            path = small
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = job.threads, 1, 3
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        binding, kept = bind(session, job)
        return median_ms(lambda: session.run_with_iobinding(binding), job.seconds)
