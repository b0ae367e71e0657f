#!/usr/bin/env python3
"""Training follows PyTorch's: the same BERT or T5, weights and batches, 50 steps, loss by loss.

  pip install torch numpy
  tests/torch_parity.py build/release/rhetor [--steps 50] [--json FILE]

Each case trains with `rhetor train --record`, which writes the first weights and every batch. The model is built again in PyTorch from
those weights and trained on those batches twice, in float32 and in float64. Losses part at the rate at which rounding errors grow, so
the yardstick is PyTorch itself: Rhetor may be at most 3 times as far from the float64 curve as PyTorch's float32 is, or 2e-5 of the loss
where that is smaller.
"""
import argparse
import json
import math
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torch.nn.functional as F

DTYPES = {"F32": np.float32, "I32": np.int32, "I64": np.int64}


def read_safetensors(path):
    raw = pathlib.Path(path).read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + size])
    out = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        data = np.frombuffer(raw[8 + size + begin:8 + size + end], DTYPES[entry["dtype"]])
        out[name] = torch.from_numpy(data.copy()).reshape(entry["shape"])
    return out


# ---- the model, from its tensors ----------------------------------------------------------------
def encode(w, config, batch):
    tokens, segments = batch["tokens"].long(), batch["segments"].long()
    rows, seq = tokens.shape
    heads = config["heads"]
    lin = lambda x, name: F.linear(x, w[name + ".weight"], w[name + ".bias"])
    norm = lambda x, name: F.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], config["norm_eps"])
    e = "bert.embeddings."
    x = w[e + "word_embeddings.weight"][tokens] + w[e + "position_embeddings.weight"][:seq]
    x = norm(x + w[e + "token_type_embeddings.weight"][segments], e + "LayerNorm")
    hidden = torch.arange(seq)[None, :] >= batch["lengths"][:, None]
    mask = torch.zeros(rows, 1, 1, seq, dtype=x.dtype).masked_fill(hidden[:, None, None, :], -math.inf)
    for i in range(config["layers"]):
        p = f"bert.encoder.layer.{i}."
        split = lambda name: lin(x, p + "attention.self." + name).view(rows, seq, heads, -1).transpose(1, 2)
        q, k, v = split("query"), split("key"), split("value")
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + mask
        o = (scores.softmax(-1) @ v).transpose(1, 2).reshape(rows, seq, -1)
        x = norm(x + lin(o, p + "attention.output.dense"), p + "attention.output.LayerNorm")
        x = norm(x + lin(F.gelu(lin(x, p + "intermediate.dense")), p + "output.dense"), p + "output.LayerNorm")
    return x, lin, norm, ~hidden


def t5_bucket(distance, both_ways):
    buckets = 16 if both_ways else 32
    start = (distance < 0).long() * 16 if both_ways else torch.zeros_like(distance)
    distance = distance.abs() if both_ways else distance.clamp(min=0)
    exact = buckets // 2
    far = exact + (torch.log(distance.float().clamp(min=1) / exact) / math.log(128 / exact) * (buckets - exact)).long()
    return start + torch.where(distance < exact, distance, far.clamp(max=buckets - 1))


def t5_loss(w, config, batch):
    heads, width = config["heads"], config["hidden"]
    lin = lambda x, name: F.linear(x, w[name + ".weight"])
    norm = lambda x, name: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + config["norm_eps"]) * w[name + ".weight"]
    split = lambda x: x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)
    tokens, answer = batch["tokens"].long(), batch["decoder_tokens"].long()
    padding = torch.arange(tokens.shape[1])[None, :] >= batch["lengths"][:, None]

    def attend(x, memory, name, bias):
        q, k, v = split(lin(x, name + ".q")), split(lin(memory, name + ".k")), split(lin(memory, name + ".v"))
        o = (q @ k.transpose(-1, -2) + bias).softmax(-1) @ v
        return lin(o.transpose(1, 2).reshape(x.shape), name + ".o")

    def stack(name, x, bias, memory=None, across=None):
        places = torch.arange(x.shape[1])
        table = w[name + ".block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        bias = bias + table[t5_bucket(places[:, None] - places[None, :], memory is None)].permute(2, 0, 1)[None]
        for i in range(config["layers"]):
            p = f"{name}.block.{i}.layer."
            n = norm(x, p + "0.layer_norm")
            x = x + attend(n, n, p + "0.SelfAttention", bias)
            if memory is not None:
                x = x + attend(norm(x, p + "1.layer_norm"), memory, p + "1.EncDecAttention", across)
            last = p + ("1" if memory is None else "2")
            x = x + lin(F.relu(lin(norm(x, last + ".layer_norm"), last + ".DenseReluDense.wi")), last + ".DenseReluDense.wo")
        return norm(x, name + ".final_layer_norm")

    table = w["shared.weight"]
    masked = torch.zeros(tokens.shape[0], 1, 1, tokens.shape[1], dtype=table.dtype).masked_fill(padding[:, None, None, :], -math.inf)
    memory = stack("encoder", table[tokens], masked)
    future = torch.full((answer.shape[1],) * 2, -math.inf, dtype=table.dtype).triu(1)[None, None]
    x = stack("decoder", table[answer], future, memory, masked)
    logits = F.linear(x * width ** -0.5, table)
    return F.cross_entropy(logits.flatten(0, 1), batch["targets"].long().flatten(), ignore_index=-100)


def loss_of(task, w, config, batch, options):
    if task == "spans":
        return t5_loss(w, config, batch)
    x, lin, norm, real = encode(w, config, batch)
    first = x[:, 0]
    pooled = lambda: torch.tanh(lin(first, "bert.pooler.dense"))
    if task == "classification":
        weights = torch.tensor(options.get("class_weights", []), dtype=x.dtype) if options.get("class_weights") else None
        return F.cross_entropy(lin(pooled(), "classifier"), batch["labels"].long(), weights, label_smoothing=options.get("smoothing", 0.0))
    if task == "regression":
        return F.mse_loss(lin(pooled(), "classifier"), batch["values"].to(x.dtype))
    if task == "span":
        scores = lin(x, "qa_outputs").masked_fill(~real[..., None], -1e9)
        return (F.cross_entropy(scores[..., 0], batch["start"].long()) + F.cross_entropy(scores[..., 1], batch["end"].long())) / 2
    x = x[torch.arange(x.shape[0])[:, None], batch["masked_positions"].long()]
    h = norm(F.gelu(lin(x, "cls.predictions.transform.dense")), "cls.predictions.transform.LayerNorm")
    logits = F.linear(h, w["bert.embeddings.word_embeddings.weight"], w["cls.predictions.bias"])
    mlm = F.cross_entropy(logits.flatten(0, 1), batch["targets"].long().flatten(), ignore_index=-100)
    return mlm + F.cross_entropy(lin(pooled(), "cls.seq_relationship"), batch["next_sentence"].long())


# ---- the optimisers -----------------------------------------------------------------------------
def lamb(groups, state, lr, step, beta1, beta2, eps):
    with torch.no_grad():
        for p, decay in groups:
            m, v = state.setdefault(p, (torch.zeros_like(p), torch.zeros_like(p)))
            m.mul_(beta1).add_(p.grad, alpha=1 - beta1)
            v.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
            r = (m / (1 - beta1 ** step)) / ((v / (1 - beta2 ** step)).sqrt() + eps)
            trust = 1.0
            if p.dim() >= 2:
                r = r + decay * p
                trust = (p.norm() / r.norm()).item() if p.norm() > 0 and r.norm() > 0 else 1.0
            p.sub_(r, alpha=lr * trust)


def curve(task, optimizer, start, config, batches, rates, options, dtype):
    w = {k: v.detach().clone().to(dtype).requires_grad_() for k, v in start.items()}
    groups = [(p, 0.01 if p.dim() >= 2 else 0.0) for p in w.values()]
    adamw = torch.optim.AdamW([{"params": [p], "weight_decay": d} for p, d in groups], betas=(0.9, 0.999), eps=1e-8)
    state, losses = {}, []
    for step, (batch, lr) in enumerate(zip(batches, rates), 1):
        loss = loss_of(task, w, config, batch, options)
        losses.append(loss.item())
        adamw.zero_grad()
        loss.backward()
        for p in w.values():
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        torch.nn.utils.clip_grad_norm_(list(w.values()), 1.0)
        if optimizer == "lamb":
            lamb(groups, state, lr, step, 0.9, 0.999, 1e-8)
        else:
            for group in adamw.param_groups:
                group["lr"] = lr
            adamw.step()
    return np.array(losses)


# ---- data ---------------------------------------------------------------------------------------
def write_data(folder):
    rng = random.Random(1)
    words = "sea lamp boat door bell cat dog owl fox wide small bright deep grey old new".split()
    text = lambda n: " ".join(rng.choice(words) for _ in range(n))
    rows = [(text(rng.randint(3, 20)), text(rng.randint(2, 9)), rng.choice(["no", "maybe", "yes"]), rng.random() * 5) for _ in range(200)]
    (folder / "pairs.tsv").write_text("a\tb\tlabel\tvalue\n" + "".join(f"{a}\t{b}\t{l}\t{v:.3f}\n" for a, b, l, v in rows))
    with open(folder / "spans.jsonl", "w") as out:
        for _ in range(200):
            passage = text(rng.randint(5, 30))
            pieces = passage.split(" ")
            at = rng.randrange(len(pieces))
            answers = {"text": [pieces[at]], "answer_start": [len(" ".join(pieces[:at])) + (at > 0)]}
            out.write(json.dumps({"question": text(3), "context": passage, "answers": answers}) + "\n")
    (folder / "text.txt").write_text("".join(text(12) + ".\n" for _ in range(800)))


CASES = [
    ("classification", "adamw", "pairs.tsv", {"task.text": "a", "task.pair": "b"}, {}),
    ("classification", "adamw", "pairs.tsv", {"task.text": "a", "task.pair": "b", "train.label_smoothing": "0.1", "task.class_weights": "[\"1\", \"0.5\", \"2\"]"},
     {"smoothing": 0.1, "class_weights": [1, 0.5, 2]}),
    ("classification", "lamb", "pairs.tsv", {"task.text": "a", "task.pair": "b"}, {}),
    ("regression", "adamw", "pairs.tsv", {"task.text": "a", "task.pair": "b", "task.label": "value"}, {}),
    ("span", "adamw", "spans.jsonl", {}, {}),
    ("span", "lamb", "spans.jsonl", {}, {}),
    ("mlm", "adamw", "text.txt", {}, {}),
    ("mlm", "lamb", "text.txt", {}, {}),
    ("spans", "adamw", "text.txt", {"model.family": "t5"}, {}),
    ("spans", "lamb", "text.txt", {"model.family": "t5"}, {}),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rhetor")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results, failed = [], False
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        write_data(folder)
        for number, (task, optimizer, data, keys, options) in enumerate(CASES):
            run, record = folder / f"run{number}", folder / f"record{number}"
            recipe = folder / f"recipe{number}.toml"
            recipe.write_text(f'''[model]
family = "bert"
layers = 2
hidden = 64
heads = 4
context = 48
vocab = 320
[data]
files = ["{data}"]
validation = 0.1
[task]
kind = "{'' if task in ('mlm', 'spans') else task}"
[train]
steps = {args.steps}
batch = 8
lr = 1e-3
weight_decay = 0.01
beta2 = 0.999
clip = 1.0
optimizer = "{optimizer}"
''')
            keys = dict(keys, **{"output.folder": str(run)})
            sets = [part for k, v in keys.items() for part in ("--set", f"{k}={v}")]
            subprocess.run([args.rhetor, "train", str(recipe), "--quiet", "--record", str(record), *sets], check=True, stdout=subprocess.DEVNULL)
            config = json.loads((run / "config.json").read_text())
            steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            steps = [s for s in steps if "loss" in s]
            ours, rates = np.array([s["loss"] for s in steps]), [s["lr"] for s in steps]
            start = read_safetensors(record / "first.safetensors")
            batches = [read_safetensors(record / f"step-{s['step']}.safetensors") for s in steps]
            single = curve(task, optimizer, start, config, batches, rates, options, torch.float32)
            double = curve(task, optimizer, start, config, batches, rates, options, torch.float64)
            far = lambda a, b: float(np.max(np.abs(a - b) / np.abs(b)))
            row = {"task": task, "optimizer": optimizer, "options": options, "steps": len(ours), "first": float(ours[0]), "last": float(ours[-1]),
                   "rhetor_vs_torch_f32": far(ours, single), "rhetor_vs_torch_f64": far(ours, double), "torch_f32_vs_f64": far(single, double)}
            row["ok"] = row["rhetor_vs_torch_f64"] <= max(3 * row["torch_f32_vs_f64"], 2e-5)
            failed |= not row["ok"]
            results.append(row)
            print(f"{task:<15}{optimizer:<7}{'smoothed, weighted' if options else '':<20}loss {row['first']:.4f} -> {row['last']:.4f}   largest relative "
                  f"difference: to torch f32 {row['rhetor_vs_torch_f32']:.2e}, to f64 {row['rhetor_vs_torch_f64']:.2e} (torch's own {row['torch_f32_vs_f64']:.2e})"
                  f"   {'ok' if row['ok'] else 'FAILED'}", flush=True)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(results, indent=1) + "\n")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
