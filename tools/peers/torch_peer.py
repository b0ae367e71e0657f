"""PyTorch, eager or torch.compile (inductor with frozen weights): BERT, GPT-2 and LLaMA layouts, SDPA, fused AdamW."""
import torch
import torch.nn.functional as F
from shapes import Unsupported
from timing import median_ms
from torch import nn


class RmsNorm(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-5)


class Block(nn.Module):
    """GPT-2 and LLaMA are pre-norm and causal, BERT is post-norm; `cache` holds past keys and values."""

    def __init__(self, shape):
        super().__init__()
        hidden, ffn, llama = shape["hidden"], shape["ffn"], shape["family"] == "llama"
        self.family, self.heads = shape["family"], shape["heads"]
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden, bias=not llama), nn.Linear(hidden, hidden, bias=not llama)
        self.up, self.down = nn.Linear(hidden, 2 * ffn if llama else ffn, bias=not llama), nn.Linear(ffn, hidden, bias=not llama)
        norm = RmsNorm if llama else nn.LayerNorm
        self.norm1, self.norm2 = norm(hidden), norm(hidden)

    def attend(self, x, cache, position, turn):
        b, s, d = x.shape
        q, k, v = self.qkv(x).view(b, s, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        if turn is not None:
            q, k = rotate(q, *turn), rotate(k, *turn)
        if cache is not None:
            cache[0][:, :, position:position + s], cache[1][:, :, position:position + s] = k, v
            if position > 0:
                k, v = cache[0][:, :, :position + s], cache[1][:, :, :position + s]
        a = F.scaled_dot_product_attention(q, k, v, is_causal=self.family != "bert" and position == 0)
        return self.out(a.transpose(1, 2).reshape(b, s, d))

    def feed(self, x):
        if self.family == "llama":
            gate, up = self.up(x).chunk(2, -1)
            return self.down(F.silu(gate) * up)
        return self.down(F.gelu(self.up(x), approximate="tanh" if self.family == "gpt2" else "none"))

    def forward(self, x, cache, position, turn):
        if self.family == "bert":
            x = self.norm1(x + self.attend(x, None, 0, None))
            return self.norm2(x + self.feed(x))
        x = x + self.attend(self.norm1(x), cache, position, turn)
        return x + self.feed(self.norm2(x))


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class Model(nn.Module):
    def __init__(self, shape, untied):
        super().__init__()
        self.family, hidden = shape["family"], shape["hidden"]
        self.words = nn.Embedding(shape["vocab"], hidden)
        self.places = None if self.family == "llama" else nn.Embedding(shape["context"], hidden)
        self.segments = nn.Embedding(2, hidden) if self.family == "bert" else None
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape["layers"]))
        self.norm = RmsNorm(hidden) if self.family == "llama" else nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, shape["vocab"], bias=False) if untied else None
        size = hidden // shape["heads"]
        angles = torch.arange(shape["context"])[:, None] * 10000.0 ** (-torch.arange(0, size, 2) / size)[None]
        self.register_buffer("cos", torch.cat((angles.cos(), angles.cos()), -1), persistent=False)
        self.register_buffer("sin", torch.cat((angles.sin(), angles.sin()), -1), persistent=False)

    def forward(self, ids, caches=None, position=0, last=False):
        x, end, turn = self.words(ids), position + ids.shape[1], None
        if self.family == "llama":
            turn = (self.cos[position:end].to(x.dtype), self.sin[position:end].to(x.dtype))
        else:
            x = x + self.places.weight[position:end]
        if self.family == "bert":
            x = self.norm(x + self.segments.weight[0])
        for i, block in enumerate(self.blocks):
            x = block(x, caches[i] if caches else None, position, turn)
        if self.family == "bert":
            return x
        x = self.norm(x[:, -1:] if last else x)
        return self.head(x) if self.head is not None else F.linear(x, self.words.weight)


def make(job):
    shape = job.shape
    if job.dtype == "int4":
        raise Unsupported("no int4 in torch itself")
    model = Model(shape, untied=shape["family"] == "llama" or (job.dtype == "int8" and shape["family"] != "bert"))
    for parameter in model.parameters():
        parameter.data.uniform_(-0.03, 0.03)
    if job.kind == "train":
        return model
    model = model.eval().to(torch.bfloat16 if job.dtype == "bf16" else torch.float32)
    if job.dtype == "int8":
        model = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    return model


def training(job, model, compiled):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids, targets = (torch.randint(0, job.shape["vocab"], (job.batch, job.seq)) for _ in range(2))
    forward = torch.compile(model) if compiled else model

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=job.dtype == "bf16"):
            loss = F.cross_entropy(forward(ids).flatten(0, 1).float(), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return median_ms(step, job.seconds)


def measure(job, compiled=False):
    torch.set_num_threads(job.threads)
    torch.manual_seed(1)
    shape, model = job.shape, make(job)
    if job.kind == "train":
        return training(job, model, compiled)
    if compiled:
        if job.dtype == "int8":
            raise Unsupported("eager int8 only")
        from torch._inductor import config
        config.freezing = True
    forward = torch.compile(model) if compiled else model
    kind = torch.bfloat16 if job.dtype == "bf16" else torch.float32
    length = {"encode": job.seq, "decode": 1, "prefill": job.seq}[job.kind]
    ids = torch.randint(0, shape["vocab"], (job.batch, length))
    caches = None
    if job.kind != "encode":
        size = (job.batch, shape["heads"], job.seq + job.tokens, shape["hidden"] // shape["heads"])
        caches = [(torch.zeros(size, dtype=kind), torch.zeros(size, dtype=kind)) for _ in range(shape["layers"])]
    # The middle of the positions that a decode walks over, so that a compiled graph is one graph.
    position = job.seq + job.tokens // 2 if job.kind == "decode" else 0
    with torch.inference_mode() if not compiled else torch.no_grad():
        return median_ms(lambda: forward(ids, caches, position, True), job.seconds)
