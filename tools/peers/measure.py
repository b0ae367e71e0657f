"""Runs one job with one peer in a process of its own: measure.py PEER JOB_AS_JSON. The last line of its output is the result as JSON."""
import importlib
import json
import os
import pathlib
import sys
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.dont_write_bytecode = True

from shapes import Job, Unsupported  # noqa: E402

MODULES = {"torch": "torch_peer", "compile": "torch_peer", "onnxruntime": "onnx_peer", "ctranslate2": "ctranslate2_peer", "llama.cpp": "llama_peer"}


def main():
    peer, job = sys.argv[1], Job(**json.loads(sys.argv[2]))
    # Libraries print to both streams, also from C; the result alone goes to the real standard output.
    out = os.dup(1)
    os.dup2(2, 1)
    try:
        module = importlib.import_module(MODULES[peer])
        result = {"ms": module.measure(job, compiled=True) if peer == "compile" else module.measure(job)}
    except Unsupported as reason:
        result = {"reason": str(reason), "unsupported": True}
    except ModuleNotFoundError as error:
        result = {"reason": f"{error.name} is not installed"}
    except Exception as error:
        traceback.print_exc()
        result = {"reason": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
    os.write(out, ("\n" + json.dumps(result) + "\n").encode())
    os._exit(0)  # some runtimes crash while their threads are torn down


if __name__ == "__main__":
    main()
