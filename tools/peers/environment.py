"""The Python environment with the peers: made from the registry, from a folder of wheels, or given."""
import base64
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

# Every peer is pinned; numpy, onnx and gguf write their models. PyTorch is large and may already be there in another version.
TORCH = "torch==2.11.0"
PINNED = ["numpy==2.4.6", "onnxruntime==1.32.0", "ctranslate2==4.8.5", "onnx==1.23.2", "gguf==0.19.0", "llama-cpp-python==0.3.36"]
NEEDED = ["pyyaml", "protobuf", "ml_dtypes", "typing_extensions", "flatbuffers", "packaging", "jinja2", "MarkupSafe", "diskcache", "tqdm", "requests", "urllib3",
          "idna", "certifi", "charset_normalizer"]
# GCC's AMX header says that loading the tile configuration reads 8 bytes of 64; the stores of the rest vanish as dead and the first tile
# instruction is illegal. Without dead-store elimination they stay.
BUILD = {"CMAKE_ARGS": "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF "
                       "'-DCMAKE_CXX_FLAGS=-fno-tree-dse -fno-dse'"}
# What only development, other languages or GPUs need.
OPTIONAL = re.compile(r"onnx/backend/test/data/|onnxruntime/capi/libonnxruntime\.so|onnxruntime/(tools|datasets)/|/tests?/|\.pyi$|\.h$|\.a$|onnx/.*\.(cc|proto)$")


def versions(python):
    """Name -> version of the peers that this interpreter can import; nothing for those it cannot."""
    code = ("import importlib, importlib.metadata as m\n"
            "for n, d in {'torch':'torch','onnxruntime':'onnxruntime','ctranslate2':'ctranslate2','llama_cpp':'llama-cpp-python','onnx':'onnx',"
            "'gguf':'gguf'}.items():\n"
            "  try:\n    importlib.import_module(n); print(n, m.version(d))\n  except Exception: pass\n")
    lines = subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.split("\n")
    return dict(line.split(" ", 1) for line in lines if " " in line)


def pip(python, *words):
    return subprocess.run([python, "-m", "pip", *words], env={**os.environ, **BUILD}).returncode == 0


def prepare(folder, install_from):
    """Makes `folder` an environment with what can be installed; what cannot is said and shows as a reason in the table."""
    python = folder / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    present = versions(python)
    source = ["--no-index", "--find-links", str(install_from)] if install_from else []
    for requirement in [TORCH, *PINNED]:
        name = requirement.split("==")[0]
        module = {"llama-cpp-python": "llama_cpp"}.get(name, name)
        installed = module in present or (name == "numpy" and subprocess.run([python, "-c", "import numpy"], capture_output=True).returncode == 0)
        if installed:
            continue
        if install_from and not any(install_from.glob(name.replace("-", "_") + "-*")):
            print(f"{name} is not in {install_from}", file=sys.stderr)
            continue
        print(f"installing {requirement}", file=sys.stderr)
        # From a folder the dependencies are all there or not needed by what is measured here.
        if not pip(python, "install", "-q", *source, requirement) and install_from:
            pip(python, "install", "-q", *source, "--no-deps", requirement)
    return python


def slim(wheel, to):
    """The wheel without optional files and debug information, its list of files corrected, packed as small as the format allows."""
    lines, record = [], ""
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(to, "w", zipfile.ZIP_LZMA) as new:
        for item in old.infolist():
            if item.is_dir() or OPTIONAL.search(item.filename) and "dist-info" not in item.filename:
                continue
            if item.filename.endswith(".dist-info/RECORD"):
                record = item.filename
                continue
            data = old.read(item)
            if re.search(r"\.so(\.\d+)*$", item.filename) and shutil.which("strip"):
                with tempfile.NamedTemporaryFile(suffix=".so") as file:
                    file.write(data)
                    file.flush()
                    # numpy's own libraries break under strip; they are stripped already.
                    if not item.filename.startswith("numpy") and subprocess.run(["strip", "--strip-debug", file.name]).returncode == 0:
                        data = pathlib.Path(file.name).read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            lines.append(f"{item.filename},sha256={digest},{len(data)}\n")
            new.writestr(item, data, compress_type=zipfile.ZIP_LZMA)
        new.writestr(record, "".join([*lines, f"{record},,\n"]))


def wheelhouse(folder, version="3.12"):
    """Everything but PyTorch for Python `version` on x86-64 Linux, so that --install-from needs no registry. llama-cpp-python has no wheel in
    the registry: it is built here for this machine's instruction set, once."""
    folder.mkdir(parents=True, exist_ok=True)
    platforms = [word for p in ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64") for word in ("--platform", p)]
    with tempfile.TemporaryDirectory() as temporary:
        wanted = [name for name in (*PINNED, *NEEDED) if not name.startswith(("llama", "diskcache"))]
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", version, *platforms,
                        "-d", temporary, *wanted], check=True)
        subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", temporary, "diskcache"], check=True)
        if not any(folder.glob("llama_cpp_python*.whl")):
            subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", temporary, PINNED[-1]], check=True, env={**os.environ, **BUILD})
        for wheel in pathlib.Path(temporary).glob("*.whl"):
            slim(wheel, folder / wheel.name)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {len(list(folder.iterdir()))} wheels, {size / 1e6:.1f} MB")
