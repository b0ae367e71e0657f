#!/usr/bin/env python3
"""Rhetor's tokenizers beside Hugging Face's `tokenizers` package: identical ids, covered text and decoded text.

The package is installed from the Python registry into a throw-away environment, trains every configuration on a multilingual corpus made
here from a seed, and encodes every line; `rhetor tokenizer encode` does the same from the file the package saved. Any difference is
printed with its line and makes the test fail.

    tests/tokenizers.py [--lines N] [--only NAME,...] [--speed] [--keep FOLDER] [--python PYTHON_WITH_TOKENIZERS]
"""
import argparse
import os
import pathlib
import subprocess
import sys
import venv

import harness

HERE = pathlib.Path(__file__).resolve().parent


def python_with_tokenizers(given):
    if given:
        return given
    folder = harness.SCRATCH / "venv"
    venv.create(folder, with_pip=True)
    subprocess.run([folder / "bin/pip", "install", "-q", "tokenizers"], check=True)
    return folder / "bin/python"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--lines", default="10000")
    parser.add_argument("--only", default="")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--keep", default="")
    parser.add_argument("--python", default="")
    options = parser.parse_args()
    try:
        python = python_with_tokenizers(options.python)
        folder = pathlib.Path(options.keep) if options.keep else harness.SCRATCH / "tokenizers"
        folder.mkdir(parents=True, exist_ok=True)
        words = [python, HERE / "tokenizer_peer/compare.py", harness.PROGRAM, folder, "--lines", options.lines, "--only", options.only]
        done = subprocess.run(words + (["--speed"] if options.speed else []), env={**os.environ, "TOKENIZERS_PARALLELISM": "true"})
        sys.exit(done.returncode)
    finally:
        harness.clean_up()
