"""CTranslate2: BERT encoder, GPT-2 and LLaMA generators written through its specification API, random weights."""
import tempfile

import ctranslate2
import numpy as np
from ctranslate2.specs import common_spec, transformer_spec
from shapes import Unsupported
from timing import median_ms

COMPUTE = {"f32": "float32", "bf16": "bfloat16", "int8": "int8"}


class Weights:
    """Stored as float16, the smallest kind that all compute types load from. Equal arrays would be stored once, so none are."""

    def __init__(self):
        self.pool = np.random.default_rng(1).uniform(-0.03, 0.03, 1 << 22).astype(np.float16)
        self.count = 0

    def __call__(self, *dims):
        self.count += 1
        return np.resize(np.roll(self.pool, 7919 * self.count), int(np.prod(dims))).reshape(dims)

    def linear(self, spec, outputs, inputs, bias=True):
        spec.weight = self(outputs, inputs)
        if bias:
            spec.bias = self(outputs)

    def norm(self, spec, size):
        spec.gamma = self(size)
        if hasattr(spec, "beta"):
            spec.beta = self(size)


def fill(coder, shape, w):
    """The parts that an encoder and a decoder have in common."""
    h, ffn, llama = shape["hidden"], shape["ffn"], shape["family"] == "llama"
    coder.scale_embeddings = False
    if not llama:
        coder.position_encodings.encodings = w(shape["context"], h)
    for layer in coder.layer:
        w.norm(layer.self_attention.layer_norm, h)
        w.linear(layer.self_attention.linear[0], 3 * h, h, not llama)
        w.linear(layer.self_attention.linear[1], h, h, not llama)
        w.norm(layer.ffn.layer_norm, h)
        w.linear(layer.ffn.linear_0, ffn, h, not llama)
        if llama:
            w.linear(layer.ffn.linear_0_noact, ffn, h, False)
        w.linear(layer.ffn.linear_1, h, ffn, not llama)


def make_spec(shape):
    w, h = Weights(), shape["hidden"]
    if shape["family"] == "bert":
        encoder = transformer_spec.TransformerEncoderSpec(
            shape["layers"], shape["heads"], pre_norm=False, activation=common_spec.Activation.GELU, layernorm_embedding=True,
            num_source_embeddings=2, embeddings_merge=common_spec.EmbeddingsMerge.ADD)
        spec = transformer_spec.TransformerEncoderModelSpec(encoder, pooling_layer=False)
        encoder.embeddings[0].weight, encoder.embeddings[1].weight = w(shape["vocab"], h), w(2, h)
        w.norm(encoder.layernorm_embedding, h)
        fill(encoder, shape, w)
    else:
        llama = dict(ffn_glu=True, rms_norm=True, rotary_dim=0, rotary_interleave=False, activation=common_spec.Activation.SWISH)
        gpt2 = dict(activation=common_spec.Activation.GELUTanh)
        spec = transformer_spec.TransformerDecoderModelSpec.from_config(
            shape["layers"], shape["heads"], pre_norm=True, **(llama if shape["family"] == "llama" else gpt2))
        spec.decoder.embeddings.weight = w(shape["vocab"], h)
        w.norm(spec.decoder.layer_norm, h)
        w.linear(spec.decoder.projection, shape["vocab"], h, False)
        fill(spec.decoder, shape, w)
    spec.register_vocabulary(["<unk>", "<s>", "</s>"] + [f"t{i}" for i in range(3, shape["vocab"])])
    spec.validate()
    return spec


def measure(job):
    if job.kind == "train":
        raise Unsupported("inference only")
    if job.dtype not in COMPUTE:
        raise Unsupported("no int4 on CPU")
    compute = COMPUTE[job.dtype]
    if compute not in ctranslate2.get_supported_compute_types("cpu"):
        raise Unsupported(f"no {compute} here")
    options = dict(device="cpu", compute_type=compute, inter_threads=1, intra_threads=job.threads)
    with tempfile.TemporaryDirectory() as folder:
        make_spec(job.shape).save(folder)
        model = (ctranslate2.Encoder if job.kind == "encode" else ctranslate2.Generator)(folder, **options)
    ids = np.random.default_rng(2).integers(3, job.shape["vocab"], (job.batch, job.seq)).tolist()
    if job.kind == "encode":
        return median_ms(lambda: model.forward_batch(ids), job.seconds)
    prompt = [[f"t{i}" for i in row] for row in ids]

    def generate(count):
        model.generate_batch(prompt, max_length=count, min_length=count, beam_size=1, sampling_topk=1, include_prompt_in_result=False)

    # The prompt but its last token goes through in one piece, the last one as the first step: that step is part of the prefill.
    if job.kind == "prefill":
        return median_ms(lambda: generate(1), job.seconds)
    short = median_ms(lambda: generate(1), job.seconds / 2)
    return (median_ms(lambda: generate(1 + job.tokens), job.seconds) - short) / job.tokens
