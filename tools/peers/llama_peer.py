"""llama.cpp through its package llama-cpp-python: GGUF files with random weights, its C interface called as its own benchmark does."""
import os
import tempfile

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter
from shapes import Unsupported
from timing import median_ms

# bytes a block, values a block
BLOCKS = {Kind.Q8_0: (34, 32), Kind.Q4_0: (18, 32), Kind.Q6_K: (210, 256)}


def random_tensor(rng, kind, rows, columns):
    """Random blocks with a small scale; values do not change the speed as long as they are numbers."""
    if kind == Kind.F32:
        return rng.uniform(-0.03, 0.03, (rows, columns)).astype(np.float32)
    if kind == Kind.BF16:
        return (rng.uniform(-0.03, 0.03, (rows, columns)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    size, values = BLOCKS[kind]
    blocks = rng.integers(0, 256, (rows * columns // values, size), dtype=np.uint8)
    scale = np.frombuffer(np.float16(2e-4 if kind == Kind.Q8_0 else 2e-6 if kind == Kind.Q6_K else 4e-3).tobytes(), np.uint8)
    at = size - 2 if kind == Kind.Q6_K else 0
    blocks[:, at:at + 2] = scale
    return blocks.reshape(rows, columns // values * size)


def tensors(shape, kind, head):
    """(name, kind, rows, columns); columns 0 is a vector. 4-bit files keep the output matrix in q6_K, as llama.cpp's own tool writes them."""
    h, ffn, llama = shape["hidden"], shape["ffn"], shape["family"] == "llama"
    yield "token_embd.weight", kind if llama else head, shape["vocab"], h
    if llama:
        yield "output.weight", head, shape["vocab"], h
    else:
        yield "position_embd.weight", Kind.F32, shape["context"], h
    matrices = ({"attn_q": (h, h), "attn_k": (h, h), "attn_v": (h, h), "ffn_gate": (ffn, h)} if llama else {"attn_qkv": (3 * h, h)}) | {
        "attn_output": (h, h), "ffn_up": (ffn, h), "ffn_down": (h, ffn)}
    for i in range(shape["layers"]):
        for name, (rows, columns) in matrices.items():
            yield f"blk.{i}.{name}.weight", kind, rows, columns
            if not llama:
                yield f"blk.{i}.{name}.bias", Kind.F32, rows, 0
        for name in ("attn_norm", "ffn_norm"):
            yield f"blk.{i}.{name}.weight", Kind.F32, h, 0
            if not llama:
                yield f"blk.{i}.{name}.bias", Kind.F32, h, 0
    yield "output_norm.weight", Kind.F32, h, 0
    if not llama:
        yield "output_norm.bias", Kind.F32, h, 0


def write(path, job):
    shape, rng = job.shape, np.random.default_rng(1)
    kind = {"f32": Kind.F32, "bf16": Kind.BF16, "int8": Kind.Q8_0, "int4": Kind.Q4_0}[job.dtype]
    writer = GGUFWriter(path, shape["family"])
    writer.add_vocab_size(shape["vocab"])
    writer.add_context_length(shape["context"])
    writer.add_embedding_length(shape["hidden"])
    writer.add_feed_forward_length(shape["ffn"])
    writer.add_block_count(shape["layers"])
    writer.add_head_count(shape["heads"])
    if shape["family"] == "llama":
        writer.add_head_count_kv(shape["kv_heads"])
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_dimension_count(shape["hidden"] // shape["heads"])
    else:
        writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("no_vocab")
    made = list(tensors(shape, kind, Kind.Q6_K if kind == Kind.Q4_0 else kind))
    arrays = []
    for name, of, rows, columns in made:
        array = np.full(rows, 0.02, np.float32) if columns == 0 else random_tensor(rng, of, rows, columns)
        arrays.append(array)
        writer.add_tensor_info(name, array.shape, array.dtype, array.nbytes, raw_dtype=None if of == Kind.F32 else of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for array in arrays:
        writer.write_tensor_data(array)
    writer.close()


def measure(job):
    if job.kind == "train":
        raise Unsupported("inference only")
    if job.kind == "encode":
        raise Unsupported("decoders only")
    os.environ.setdefault("GGML_LOG_LEVEL", "error")
    import llama_cpp as ll
    ll.llama_backend_init()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.gguf")
        write(path, job)
        options = ll.llama_model_default_params()
        options.n_gpu_layers = 0
        options.use_mmap = False
        model = ll.llama_model_load_from_file(path.encode(), options)
    if not model:
        raise RuntimeError("llama.cpp cannot load the file")
    options = ll.llama_context_default_params()
    options.n_ctx = min(job.shape["context"], job.seq + job.tokens + 64)
    options.n_batch = options.n_ubatch = max(job.seq, 512)
    options.n_threads = options.n_threads_batch = job.threads
    context = ll.llama_init_from_model(model, options)
    if not context:
        raise RuntimeError("llama.cpp cannot make a context")
    memory = ll.llama_get_memory(context)
    ids = np.random.default_rng(2).integers(3, job.shape["vocab"], job.seq)
    batch = ll.llama_batch_init(job.seq, 0, 1)

    def decode(first, tokens):
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = int(token), first + i, 1, 0
            batch.logits[i] = i + 1 == len(tokens)
        if ll.llama_decode(context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        ll.llama_get_logits_ith(context, -1)  # waits for the result

    def prefill():
        ll.llama_memory_clear(memory, True)
        decode(0, ids)

    if job.kind == "prefill":
        return median_ms(prefill, job.seconds)
    prefill()
    at = [job.seq]

    def step():
        if at[0] == job.seq + job.tokens:
            ll.llama_memory_seq_rm(memory, 0, job.seq, -1)
            at[0] = job.seq
        decode(at[0], ids[:1])
        at[0] += 1

    return median_ms(step, job.seconds)
