"""What the end-to-end tests share: the program, a scratch folder, one small trained model, a running service."""
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = pathlib.Path(os.environ.get("RHETOR", ROOT / "build/release/rhetor"))
SCRATCH = pathlib.Path(tempfile.mkdtemp(prefix="rhetor-test-"))
ENV = {**os.environ, "LC_ALL": "C.UTF-8"}


def clean_up():
    shutil.rmtree(SCRATCH, ignore_errors=True)


def rhetor(*words, code=0, timeout=300, cwd=SCRATCH, stdin=None):
    """Runs the program; fails unless it exits with `code`. Returns (stdout, stderr)."""
    done = subprocess.run([PROGRAM, *map(str, words)], capture_output=True, timeout=timeout, cwd=cwd, env=ENV, input=stdin)
    out, err = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    if done.returncode != code:
        raise AssertionError(f"rhetor {' '.join(map(str, words))}: exit {done.returncode}, expected {code}\n{out[-3000:]}\n{err[-3000:]}")
    return out, err


def refused(*words, says, **options):
    """The command must fail with one clear sentence that contains `says` (a regular expression)."""
    out, err = rhetor(*words, code=1, **options)
    lines = [line for line in err.strip().splitlines() if line.startswith("error: ")]
    if len(lines) != 1 or not re.search(says, lines[0]):
        raise AssertionError(f"rhetor {' '.join(map(str, words))}: expected one error about /{says}/, got:\n{err}")
    return lines[0]


def small_text():
    """A few kilobytes of regular English that a tiny model learns in seconds."""
    people = ["Anna", "Boris", "Clara", "David", "Elena", "Felix", "Greta", "Henry", "Irene", "Jonas", "Karla", "Louis"]
    things = ["lamp", "boat", "book", "clock", "kettle", "map"]
    places = ["harbour", "library", "garden", "market"]
    lines = [f"{p} keeps the {t} in the {w}. Every morning {p} takes the {t} and walks to the {w}.\n"
             for p in people for t in things for w in places]
    path = SCRATCH / "small.txt"
    if not path.exists():
        path.write_text("".join(lines))
    return path


_model = None


def model():
    """The run folder of one quickstart on small_text(), made once."""
    global _model
    if _model is None:
        out, _ = rhetor("quickstart", small_text(), "--minutes", "0.3", "--runs", SCRATCH / "runs", "--report", SCRATCH / "report.html",
                        "--json", SCRATCH / "quickstart.json")
        _model = next((SCRATCH / "runs").glob("quickstart-*"))
        (SCRATCH / "quickstart.out").write_text(out)
    return _model


class Service:
    """`rhetor serve` on a free port, as a context manager."""

    def __init__(self, path, *options):
        self.command = [PROGRAM, "serve", str(path), "--port", "0", *map(str, options)]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV, text=True)
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        if not found:
            raise AssertionError(f"the service did not start: {line}{self.process.communicate()[1]}")
        self.port = int(found.group(1))
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("the service did not stop within 20 s of SIGTERM")
        self.stderr = self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        assert self.process.returncode == 0, f"the service ended with {self.process.returncode}: {self.stderr}"

    def request(self, path, body=None, method=None, raw=None):
        """Returns (status, headers, body bytes)."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method, headers={"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, reply.headers, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def json(self, path, body=None):
        status, _, data = self.request(path, body)
        return status, json.loads(data)


def wait_for(condition, seconds=20):
    end = time.time() + seconds
    while time.time() < end:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("timed out waiting")
