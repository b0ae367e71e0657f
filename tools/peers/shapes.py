"""What is measured: model shapes as in src/models/config.cc, and one job a measurement. Shared by every peer."""
import dataclasses

SHAPES = {
    "bert-base": dict(family="bert", vocab=30522, layers=12, hidden=768, heads=12, kv_heads=12, ffn=3072, context=512),
    "gpt2-10m": dict(family="gpt2", vocab=512, layers=6, hidden=384, heads=6, kv_heads=6, ffn=1536, context=256),
    "gpt2-124m": dict(family="gpt2", vocab=50257, layers=12, hidden=768, heads=12, kv_heads=12, ffn=3072, context=1024),
    "llama-1.3b": dict(family="llama", vocab=32000, layers=24, hidden=2048, heads=16, kv_heads=16, ffn=5504, context=4096),
}


@dataclasses.dataclass
class Job:
    """kind: encode (hidden states of batch x seq), decode (one token after `seq` cached ones, milliseconds a token), prefill (seq tokens
    into an empty cache, logits of the last), train (forward, backward, clipping, AdamW). dtype: f32, bf16, int8, int4."""
    kind: str
    model: str
    dtype: str
    batch: int
    seq: int
    threads: int
    seconds: float
    tokens: int = 64  # decode: positions walk over so many

    @property
    def shape(self):
        return SHAPES[self.model]

    def name(self):
        size = f"seq {self.seq} batch {self.batch}" if self.kind in ("encode", "train") else f"at {self.seq}" if self.kind == "decode" else f"{self.seq}"
        return f"{self.model} {self.kind} {size} {self.dtype} t{self.threads}"


class Unsupported(Exception):
    """The peer cannot do this at all; the text is a few words for the table's cell."""
