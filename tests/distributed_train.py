#!/usr/bin/env python3
"""Training by ranks that are real processes: threads, torchrun-style variables, mpirun and srun give the same weights bit for bit; SIGTERM to
one rank saves on all; a killed rank is named by the others, and the run goes on from its newest checkpoint; ranks that disagree say so.

RHETOR names the program (default: build/release/rhetor). Every rank writes a log of its own: a launcher may lose lines. What cannot run
here is skipped, and said so. SLURM=1 starts a Slurm of this machine alone for the srun case (slurmctld, slurmd, munge; root)."""
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
RHETOR = pathlib.Path(os.environ.get("RHETOR", ROOT / "build/release/rhetor")).resolve()
LAUNCHER = re.compile(r"^(OMPI_|PMI_|PMIX_|SLURM_|MASTER_|RANK$|WORLD_SIZE$|LOCAL_RANK$|RHETOR_)")
ENV = {key: value for key, value in os.environ.items() if not LAUNCHER.match(key)} | {"LC_ALL": "C.UTF-8"}
RECIPE = """[model]
layers = 2
hidden = 64
heads = 2
context = 64
vocab = 300
[data]
files = ["text.txt"]
[train]
steps = 40
batch = 8
[parallel]
strategy = "zero2"
[output]
checkpoint_every = 10
"""
# Which rank a process is, whoever launched it.
OWN_LOG = 'exec "$0" "$@" > "$LOGS.${RANK:-${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-$SLURM_PROCID}}}" 2>&1'


class Skip(Exception):
    pass


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Place:
    """A folder with a text and a recipe, and what runs there."""

    def __init__(self, folder):
        self.folder, self.started = pathlib.Path(folder), []
        draw = random.Random(5)
        self.folder.joinpath("text.txt").write_text("".join(
            f"{draw.choice(['The cat', 'A sailor', 'My sister'])} {draw.choice(['sees', 'paints'])} the {draw.choice(['boat', 'lamp', 'sea'])}.\n"
            for _ in range(2000)))
        self.folder.joinpath("recipe.toml").write_text(RECIPE)

    def words(self, name, *more):
        sets = [word for pair in (f"output.folder={self.folder / name}", *more) for word in ("--set", pair)]
        return [str(RHETOR), "train", str(self.folder / "recipe.toml"), *sets]

    def run(self, name, *more, ranks=0):
        extra = ["--ranks", str(ranks)] if ranks else []
        subprocess.run([*self.words(name, *more), *extra], env=ENV, check=True, capture_output=True, timeout=120)

    def tcp(self, name, ranks, more=lambda rank: []):
        port = str(free_port())
        processes = [subprocess.Popen(["sh", "-c", OWN_LOG, *self.words(name, *more(r))], env=ENV | {
            "LOGS": str(self.folder / f"{name}.log"), "RANK": str(r), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(r), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port}) for r in range(ranks)]
        self.started += processes
        return processes

    def end(self):
        """What a failed case left running."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()

    def launched(self, name, launcher, more=()):
        return subprocess.run([*launcher, "sh", "-c", OWN_LOG, *self.words(name, *more)], env=ENV | {"LOGS": str(self.folder / f"{name}.log")},
                              capture_output=True, text=True, timeout=180)

    def log(self, name, rank):
        return self.folder.joinpath(f"{name}.log.{rank}").read_text()

    def weights(self, name):
        return self.folder.joinpath(name, "model.safetensors").read_bytes()

    def losses(self, name):
        text = self.folder.joinpath(name, "metrics.jsonl").read_text()
        lines = [json.loads(line) for line in text[:text.rfind("\n") + 1].splitlines()]  # the last may be half written
        return [line["loss"] for line in lines if "loss" in line]

    def wait_for_step(self, name, step, seconds=60):
        end = time.time() + seconds
        while time.time() < end:
            if self.folder.joinpath(name, "metrics.jsonl").exists() and len(self.losses(name)) >= step:
                return
            time.sleep(0.05)
        raise AssertionError(f"step {step} did not come in {seconds} s")


def same_weights_however_launched(place):
    place.run("one")
    one = place.losses("one")
    said = []
    for strategy in ("ddp", "zero1", "zero2", "zero3"):
        chosen = f"parallel.strategy={strategy}"
        place.run(f"threads-{strategy}", chosen, ranks=2)
        found = place.losses(f"threads-{strategy}")
        far = max(abs(a - b) / b for a, b in zip(found, one))
        assert len(found) == len(one) and far < 1e-4, f"{strategy}: {far}"
        processes = place.tcp(f"tcp-{strategy}", 2, lambda rank: [chosen])
        assert [p.wait(120) for p in processes] == [0, 0], place.log(f"tcp-{strategy}", 0)
        assert place.weights(f"tcp-{strategy}") == place.weights(f"threads-{strategy}"), strategy
        said.append(f"{strategy} {far:.1e}")
    return "losses off one rank's by " + ", ".join(said)


def mpi_ranks(place):
    if not shutil.which("mpirun") or not (RHETOR.parent / "librhetor_mpi.so").exists():
        raise Skip("mpirun or librhetor_mpi.so is missing")
    for ranks in (2, 4):
        place.run(f"threads-{ranks}", ranks=ranks)
        done = place.launched(f"mpi-{ranks}", ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", str(ranks)])
        assert done.returncode == 0, place.log(f"mpi-{ranks}", 0) + done.stderr
        assert place.weights(f"mpi-{ranks}") == place.weights(f"threads-{ranks}")
        assert f"{ranks} ranks on mpi" in place.log(f"mpi-{ranks}", 0)


def slurm_ranks(place):
    if os.environ.get("SLURM") != "1" or not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "srun"))) or os.geteuid():
        raise Skip("needs SLURM=1, slurmctld, slurmd, munge and root")
    home = place.folder / "slurm"
    (home / "state").mkdir(parents=True)
    (home / "spool").mkdir()
    host = socket.gethostname().split(".")[0]
    conf = home / "slurm.conf"
    conf.write_text(f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
""")
    daemons = []
    try:
        os.environ["SLURM_CONF"] = str(conf)
        ENV["SLURM_CONF"] = str(conf)
        (home / "munge").mkdir(mode=0o755)
        munge_key = home / "munge.key"
        munge_key.write_bytes(os.urandom(1024))
        munge_key.chmod(0o400)
        own = subprocess.run(["munge", "-n"], capture_output=True)
        if own.returncode:
            munged = ["munged", "-F", "--force", f"--key-file={munge_key}", f"--socket={home}/munge/socket", f"--pid-file={home}/munge/pid",
                      f"--log-file={home}/munge/log", f"--seed-file={home}/munge/seed"]
            daemons.append(subprocess.Popen(munged, stderr=subprocess.DEVNULL))
            conf.write_text(conf.read_text() + f"AuthInfo=socket={home}/munge/socket\n")
            time.sleep(1)
        with open(home / "ctld.log", "w") as ctld, open(home / "slurmd.log", "w") as slurmd:
            daemons.append(subprocess.Popen(["slurmctld", "-D", "-f", str(conf)], stdout=ctld, stderr=ctld))
            time.sleep(1)
            daemons.append(subprocess.Popen(["slurmd", "-D", "-f", str(conf), "-N", host], stdout=slurmd, stderr=slurmd))
        end = time.time() + 30
        while "idle" not in subprocess.run(["sinfo", "-h", "-o", "%T"], env=ENV, capture_output=True, text=True).stdout:
            if any(d.poll() is not None for d in daemons) or time.time() > end:
                raise Skip("Slurm does not start here: " + (home / "ctld.log").read_text()[-400:] + (home / "slurmd.log").read_text()[-400:])
            time.sleep(0.5)
        place.run("threads-2", ranks=2)
        done = place.launched("slurm", ["srun", "-n", "2", "--overcommit"])
        assert done.returncode == 0, done.stderr[-2000:]
        assert place.weights("slurm") == place.weights("threads-2")
        assert "2 ranks on " in place.log("slurm", 0), place.log("slurm", 0)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(20)


def sigterm_saves_on_all_ranks(place):
    place.run("whole", ranks=2)
    processes = place.tcp("stopped", 2)
    place.wait_for_step("stopped", 3)
    processes[1].send_signal(signal.SIGTERM)
    assert [p.wait(60) for p in processes] == [0, 0], place.log("stopped", 0)
    step = len(place.losses("stopped"))
    assert step < 40, "the run was over before the signal"
    assert (place.folder / f"stopped/checkpoints/step-{step}/state-1-of-2.safetensors").exists()
    assert [p.wait(60) for p in place.tcp("stopped", 2)] == [0, 0]
    assert place.weights("stopped") == place.weights("whole"), "resumed bit for bit"
    return f"stopped at step {step}"


def a_killed_rank(place):
    long = lambda rank: ["train.steps=100000"]
    processes = place.tcp("killed", 2, long)
    place.wait_for_step("killed", 25)
    begin = time.time()
    processes[1].kill()
    processes[1].wait()
    assert processes[0].wait(30) == 1
    took, said = time.time() - begin, place.log("killed", 0).splitlines()[-1]
    assert re.search(r"error: \w+ of '.+' .*on rank 0: rank 1 .*is lost", said), said
    processes = place.tcp("killed", 2, long)
    before = len(place.losses("killed"))
    place.wait_for_step("killed", before + 10)
    processes[0].send_signal(signal.SIGTERM)
    assert [p.wait(60) for p in processes] == [0, 0], place.log("killed", 0)
    assert "resuming at step" in place.log("killed", 0), place.log("killed", 0)
    return f"named after {took:.2f} s: {said.strip()}"


def a_slow_rank(place):
    processes = place.tcp("slow", 2, lambda rank: ["train.steps=140"])
    place.wait_for_step("slow", 2)
    while processes[1].poll() is None:  # rank 1 gets a quarter of its time, in pieces shorter than a step
        processes[1].send_signal(signal.SIGSTOP)
        time.sleep(0.006)
        processes[1].send_signal(signal.SIGCONT)
        time.sleep(0.002)
    assert [p.wait(60) for p in processes] == [0, 0], place.log("slow", 0)
    said = re.search(r"step \d+: rank 1 is slow: the others waited .*", place.log("slow", 0))
    assert said, place.log("slow", 0)
    return said.group(0)


def ranks_that_disagree(place):
    processes = place.tcp("recipes", 2, lambda rank: [f"train.lr=0.00{rank + 1}"])
    assert (ended := [p.wait(60) for p in processes]) == [1, 1], ended
    assert "train.lr is 0.001 there and 0.002 here" in place.log("recipes", 1), place.log("recipes", 1)
    assert "rank 1 has another recipe" in place.log("recipes", 0), place.log("recipes", 0)
    other = place.folder / "other.txt"
    other.write_text("Another text altogether.\n" * 500)
    processes = place.tcp("texts", 2, lambda rank: [f'data.files=["{other}"]'] if rank else [])
    assert (ended := [p.wait(60) for p in processes]) == [1, 1], ended
    assert "another text or tokenizer than rank 0" in place.log("texts", 1), place.log("texts", 1)
    processes = place.tcp("odd", 3)
    assert (ended := [p.wait(60) for p in processes]) == [1, 1, 1], ended
    assert "does not divide among 3 ranks" in place.log("odd", 0), place.log("odd", 0)


def main():
    failed = 0
    cases = [same_weights_however_launched, mpi_ranks, slurm_ranks, sigterm_saves_on_all_ranks, a_killed_rank, a_slow_rank, ranks_that_disagree]
    wanted = sys.argv[1:]
    for case in cases:
        if wanted and not any(word in case.__name__ for word in wanted):
            continue
        begin = time.time()
        with tempfile.TemporaryDirectory(prefix="rhetor-ranks-") as folder:
            place = Place(folder)
            try:
                said = case(place)
                print(f"ok    {case.__name__} ({time.time() - begin:.1f} s){': ' + said if said else ''}", flush=True)
            except Skip as why:
                print(f"skip  {case.__name__}: {why}", flush=True)
            except Exception as error:
                failed += 1
                print(f"FAIL  {case.__name__}: {type(error).__name__}: {error}", flush=True)
            finally:
                place.end()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
