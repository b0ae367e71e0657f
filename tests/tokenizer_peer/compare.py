"""Run by tokenizers.py inside an environment that has the `tokenizers` package."""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

import tokenizers

import configs
import corpus


def cleaned(offsets, line):
    """The text each token covers."""
    return [line[a:b] for a, b in offsets]


def compare(program, folder, name, tokenizer, lines, framed):
    """Prints the first differences; returns their number."""
    path = folder / f"{name}.json"
    batch = folder / "lines.jsonl"
    words = [program, "tokenizer", "encode", str(path), "--file", str(batch), "--jsonl", "--json", "--specials"]
    differences = 0
    done = subprocess.run(words + (["--template"] if framed else []), capture_output=True)
    if done.returncode != 0:
        print(f"{name}: {done.stderr.decode('utf-8', 'replace').strip()}")
        return 1
    outputs = done.stdout.decode("utf-8", "replace").split("\n")
    encodings = tokenizer.encode_batch(lines, add_special_tokens=framed)
    # The package's table of scripts is of Unicode 9.
    odd = (lambda line: not all(map(corpus.known_to_all, line))) if name == "scripts-unigram" else lambda line: False
    kinds = {"ids": 0, "offsets": 0, "segments": 0, "text": 0, "full_text": 0}
    for line, output, theirs in zip(lines, outputs, encodings):
        if odd(line):
            continue
        ours = json.loads(output)
        raw = line.encode()
        expected = {
            "ids": theirs.ids,
            "offsets": cleaned(theirs.offsets, line),
            "segments": theirs.type_ids,
            "text": tokenizer.decode(theirs.ids),
            "full_text": tokenizer.decode(theirs.ids, skip_special_tokens=False),
        }
        ours["offsets"] = [raw[a:b].decode("utf-8", "replace") for a, b in ours["offsets"]]
        for key, value in expected.items():
            # Where a charsmap drops the very first character, the package's offsets are one character off to the end of the text.
            if ours[key] == value or (key == "offsets" and name == "xlm-roberta" and line.startswith("\u00ad")):
                continue
            kinds[key] += 1
            if kinds[key] <= 3:
                print(f"{name}: {key} differ on {line!r}")
                if key == "ids":
                    print(f"   theirs {theirs.tokens}\n   ours   {[tokenizer.id_to_token(i) for i in ours['ids']]}")
                else:
                    print(f"   theirs {value!r}\n   ours   {ours[key]!r}")
            if key == "ids":
                break
    differences = sum(kinds.values())
    print(f"{name:<24} {tokenizer.get_vocab_size():>6} tokens  {len(lines)} lines  " +
          ("identical" if differences == 0 else f"{differences} DIFFERENCES {kinds}"), flush=True)
    return differences


def written_back(program, folder, name, tokenizer, lines):
    """What Rhetor writes loads in the package and gives the same ids."""
    ours = folder / f"{name}.ours.json"
    done = subprocess.run([program, "tokenizer", "convert", str(folder / f"{name}.json"), "-o", str(ours)], capture_output=True)
    if done.returncode != 0:
        print(f"{name}: {done.stderr.decode('utf-8', 'replace').strip()}")
        return 1
    try:
        again = tokenizers.Tokenizer.from_file(str(ours))
    except Exception as error:  # the package raises bare exceptions
        print(f"{name}: the package cannot load what Rhetor wrote: {error}")
        return 1
    sample = lines[:2000]
    a, b = tokenizer.encode_batch(sample), again.encode_batch(sample)
    wrong = [line for line, x, y in zip(sample, a, b) if x.ids != y.ids or tokenizer.decode(x.ids) != again.decode(y.ids)]
    if wrong:
        print(f"{name}: written back, {len(wrong)} lines differ, first {wrong[0]!r}")
    return len(wrong)


CASES = [
    ({"max_length": 12}, {}),
    ({"max_length": 16, "stride": 3}, {"pad_to_multiple_of": 8}),
    ({"max_length": 11, "stride": 2, "direction": "left"}, {"direction": "left", "pad_type_id": 3}),
    ({"max_length": 40, "stride": 4, "strategy": "only_first"}, {"length": 48}),
    (None, {"length": 20, "pad_to_multiple_of": 16}),
]


def flat(e):
    return {"ids": e.ids, "segments": e.type_ids, "attention": e.attention_mask, "special": e.special_tokens_mask, "overflow": [flat(o) for o in e.overflowing]}


def shallow(e):
    """Windows of windows, which the package leaves behind when both texts of a pair are cut, hold nothing new."""
    return {k: [{**o, "overflow": []} for o in v] if k == "overflow" else v for k, v in e.items()}


def batches(program, folder, name, tokenizer, lines, framed):
    """Truncated and padded batches of texts and pairs: ids, segments, masks and windows, as the saved file asks for."""
    path, batch = folder / f"{name}.batch.json", folder / "batch.jsonl"
    wrong = 0
    for number, (cut, pad) in enumerate(CASES):
        texts = lines[20 + number * 60:60 + number * 60]
        # The first text alone can be cut to make room only if the second one leaves some.
        pairs = list(zip(texts[::2], [t[:6] for t in texts[1::2]] if cut and cut.get("strategy") else texts[1::2]))
        for kind in (texts, pairs):
            tokenizer.no_truncation()
            if cut:
                tokenizer.enable_truncation(**cut)
            tokenizer.enable_padding(pad_id=1, pad_token="[PAD]", **pad)
            tokenizer.save(str(path))
            batch.write_text("".join(json.dumps(line) + "\n" for line in kind))
            done = subprocess.run([program, "tokenizer", "encode", str(path), "--file", str(batch), "--jsonl", "--batch", "--specials"] +
                                  (["--template"] if framed else []), capture_output=True)
            try:
                theirs = [flat(e) for e in tokenizer.encode_batch(kind, add_special_tokens=framed)]
            except Exception as error:   # what it refuses we must refuse
                if done.returncode == 0:
                    wrong += 1
                    print(f"{name}: batch {number}: the package says {error}, Rhetor nothing")
                continue
            ours = [json.loads(line) for line in done.stdout.decode().splitlines()]
            ours = [{k: ([{x: y for x, y in o.items() if x != "offsets"} for o in v] if k == "overflow" else v) for k, v in e.items() if k != "offsets"}
                    for e in ours]
            if done.returncode != 0 or len(ours) != len(theirs):
                wrong += 1
                print(f"{name}: batch {number}: {done.stderr.decode('utf-8', 'replace').strip()}")
                continue
            for text, a, b in zip(kind, theirs, ours):
                if shallow(a) != shallow(b):
                    wrong += 1
                    if wrong <= 3:
                        print(f"{name}: batch {number} {cut} {pad} differs on {text!r}\n   theirs {shallow(a)}\n   ours   {shallow(b)}")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return wrong


def speed(program, folder, name, tokenizer, text):
    """MB per second of CPU time on one thread, the package and Rhetor in turns, the best of each."""
    path = folder / "speed.txt"
    size = sum(len(line.encode()) for line in text)
    fast = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"

    def theirs():
        start = time.process_time()
        fast(text, add_special_tokens=False)
        return size / (time.process_time() - start) / 1e6

    def ours():
        words = [program, "tokenizer", "encode", str(folder / f"{name}.json"), "--file", str(path), "--speed", "--threads", "1", "--repeat", "3"]
        return json.loads(subprocess.run(words, capture_output=True, check=True).stdout)["mb_per_cpu_s"]

    best = [0.0, 0.0]
    for _ in range(3):
        best = [max(best[0], theirs()), max(best[1], ours())]
    print(f"{name:<24} package {best[0]:7.2f} MB/s, Rhetor {best[1]:7.2f} ({best[1] / best[0]:.2f} x)", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--lines", type=int, default=10000)
    parser.add_argument("--only", default="")
    parser.add_argument("--speed", action="store_true")
    options = parser.parse_args()
    lines = corpus.lines(options.lines)
    (options.folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"tokenizers {tokenizers.__version__}, {sum(len(l.encode()) for l in lines)} bytes")
    text = list(corpus.plain(40000)) if options.speed else []
    if options.speed:
        (options.folder / "speed.txt").write_text("".join(line + "\n" for line in text))
    wanted = [n for n in options.only.split(",") if n]
    wrong = 0
    for name, build in configs.CONFIGS.items():
        if wanted and name not in wanted:
            continue
        tokenizer = build(list(corpus.plain(3000)) + lines[: len(lines) // 4])
        if options.speed:
            tokenizer.save(str(options.folder / f"{name}.json"))
            speed(options.program, options.folder, name, tokenizer, text)
            continue
        path = options.folder / f"{name}.json"
        tokenizer.save(str(path))
        tokenizer = tokenizers.Tokenizer.from_file(str(path))   # as a user has it: numbers read from the file
        wrong += compare(options.program, options.folder, name, tokenizer, lines, framed=tokenizer.post_processor is not None)
        wrong += batches(options.program, options.folder, name, tokenizer, lines, framed=tokenizer.post_processor is not None)
        wrong += written_back(options.program, options.folder, name, tokenizer, lines)
    print("all identical" if wrong == 0 and not options.speed else "" if options.speed else f"{wrong} differences")
    sys.exit(1 if wrong else 0)
