"""Small models for tests/load.py, one a route of the service, trained in seconds on text made here."""
import json
import random

import harness

RECIPE = """
[model]
family = "bert"
layers = 1
hidden = 32
heads = 2
context = 64
vocab = 500
[data]
files = ["{file}"]
[task]
kind = "{kind}"
stride = 16
[train]
steps = 40
batch = 16
lr = 2e-3
[output]
folder = "{folder}"
validate_every = 0
"""


def examples(kind):
    """Records of one kind, cut from the lines of harness.small_text()."""
    rng = random.Random(3)
    lines = harness.small_text().read_text().splitlines()
    rng.shuffle(lines)
    for line in lines[:300]:
        words = line.replace(".", " .").split()   # NAME keeps the THING in the PLACE . Every morning ...
        if kind == "classification":
            yield {"text": line, "label": words[3]}
        elif kind == "tagging":
            yield {"words": words, "tags": ["name" if word == words[0] else "thing" if word == words[3] else "O" for word in words]}
        else:
            yield {"question": f"What does {words[0]} keep?", "context": line, "answers": {"text": [words[3]], "answer_start": [line.index(words[3])]}}


def task_model(kind):
    file, recipe, folder = (harness.SCRATCH / f"{kind}{end}" for end in (".jsonl", ".toml", ""))
    file.write_text("".join(json.dumps(record) + "\n" for record in examples(kind)))
    recipe.write_text(RECIPE.format(file=file, kind=kind, folder=folder))
    harness.rhetor("train", recipe, "--quiet")
    return folder


def generator():
    return [harness.model() / "model.plan"]


def every_task():
    return [*generator(), harness.model(), *(task_model(kind) for kind in ("classification", "tagging", "span"))]
