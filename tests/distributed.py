#!/usr/bin/env python3
"""Ranks as real processes: mpirun, torchrun-style variables, two hosts (network namespaces). The collectives are right and the same bit
for bit on every backend; a rank that is killed, stopped, asleep, of another opinion or gone is named by all others, in seconds.

COMM_PROBE names the program (default: build/release/comm_probe). What cannot run here (no mpirun, no right to make namespaces) is
skipped, and said so."""
import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROBE = pathlib.Path(os.environ.get("COMM_PROBE", ROOT / "build/release/comm_probe")).resolve()
LAUNCHER = re.compile(r"^(OMPI_|PMI_|PMIX_|SLURM_|MASTER_|RANK$|WORLD_SIZE$|LOCAL_RANK$|RHETOR_)")
ENV = {key: value for key, value in os.environ.items() if not LAUNCHER.match(key)} | {"LC_ALL": "C.UTF-8"}


class Skip(Exception):
    pass


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Job:
    """The ranks of one launch, with what they wrote. The processes are ended on leaving."""

    def __init__(self, commands, environments):
        self.processes = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
                          for command, env in zip(commands, environments)]
        self.text = [""] * len(self.processes)
        for process in self.processes:
            os.set_blocking(process.stdout.fileno(), False)

    def read(self):
        for i, process in enumerate(self.processes):
            with contextlib.suppress(TypeError):   # nothing to read now
                self.text[i] += process.stdout.read() or ""
        return "\n".join(self.text)

    def until(self, pattern, times, seconds):
        """Waits until the pattern was written `times` times; returns the seconds it took."""
        begin = time.time()
        while time.time() - begin < seconds:
            if len(re.findall(pattern, self.read(), re.M)) >= times:
                return time.time() - begin
            time.sleep(0.02)
        raise AssertionError(f"/{pattern}/ came less than {times} times in {seconds} s:\n{self.read()[-3000:]}")

    def wait(self, seconds=60):
        end = time.time() + seconds
        while any(process.poll() is None for process in self.processes):
            self.read()
            if time.time() > end:
                raise AssertionError(f"still running after {seconds} s:\n{self.read()[-3000:]}")
            time.sleep(0.02)
        self.read()
        return [process.returncode for process in self.processes]

    def pid(self, rank):
        return int(re.search(rf"^rank {rank} of .*process (\d+)$", self.read(), re.M).group(1))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGCONT)
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()


def tcp(ranks, *words, world=None, only=None, prefix=lambda rank: [], address="127.0.0.1"):
    port = free_port()
    chosen = range(ranks) if only is None else only
    return Job([[*prefix(r), str(PROBE), *map(str, words)] for r in chosen],
               [ENV | {"RANK": str(r), "WORLD_SIZE": str(world or ranks), "LOCAL_RANK": str(r), "MASTER_ADDR": address,
                       "MASTER_PORT": str(port)} for r in chosen])


def mpi(ranks, *words):
    if not shutil.which("mpirun"):
        raise Skip("mpirun is missing (openmpi-bin)")
    if not (PROBE.parent / "librhetor_mpi.so").exists():
        raise Skip("librhetor_mpi.so was not built (libopenmpi-dev)")
    # Recovery: mpirun does not kill the ranks that could still say what happened.
    return Job([["mpirun", "--allow-run-as-root", "--oversubscribe", "--enable-recovery", "-n", str(ranks), str(PROBE), *map(str, words)]], [ENV])


def checked(job):
    with job:
        codes = job.wait(120)
        assert not any(codes), job.read()[-3000:]
        return [line for line in job.text[0].splitlines() if re.search(r"  [0-9a-f]{16}$", line)]


def same_bits_on_every_backend(launch):
    for ranks in (2, 3, 5):
        loopback = subprocess.run([str(PROBE), "check", "--ranks", str(ranks)], env=ENV, capture_output=True, text=True, timeout=120, check=True)
        expected = [line for line in loopback.stdout.splitlines() if re.search(r"  [0-9a-f]{16}$", line)]
        assert len(expected) > 100
        found = checked(launch(ranks, "check"))
        odd = sorted(set(found) ^ set(expected))
        assert found == expected, f"{ranks} ranks, {len(found)} of {len(expected)} lines, {len(odd)} of them odd: {odd[:4]}"
    checked(launch(3, "check", "--count", 20011, "--segment", 4096))


def everyone_but(job, rank, ranks, says, seconds, begin=None):
    """All ranks but one must say it in time."""
    begin = begin or time.time()
    for other in range(ranks):
        if other != rank:
            job.until(rf"^error: (all_reduce of 'layer\.\d+\.weight'|broadcast of 'go on') \(.* on rank {other}: .*{says}", 1, seconds)
    return time.time() - begin


def a_killed_rank(launch):
    with launch(3, "loop", "--seconds", 60) as job:
        job.until(r"^rank \d of 3 .*process \d+$", 3, 30)
        time.sleep(0.3)
        os.kill(job.pid(1), signal.SIGKILL)
        took = everyone_but(job, 1, 3, r"rank 1 \(.*\) is lost: ", 10)
        job.wait(20)
        return f"named after {took:.2f} s"


def a_stopped_rank(launch):
    with launch(3, "loop", "--seconds", 60, "--silence", 3) as job:
        job.until(r"^rank \d of 3 .*process \d+$", 3, 30)
        time.sleep(0.3)
        stopped = job.pid(1)
        os.kill(stopped, signal.SIGSTOP)
        try:
            took = everyone_but(job, 1, 3, r"rank 1 \(.*\) is lost: no sign of life for 3", 15)
        finally:
            os.kill(stopped, signal.SIGKILL)
        return f"named after {took:.2f} s"


def a_sleeping_rank(launch):
    with launch(3, "loop", "--seconds", 20, "--deadline", 2, "--sleep-rank", 1) as job:
        took = everyone_but(job, 1, 3, r"rank 1 \(.*\) did not come to .* within 2 s .*its process is alive", 30)
        return f"named after {took:.2f} s"


def another_size(launch):
    with launch(3, "loop", "--seconds", 20, "--odd-rank", 2) as job:
        everyone_but(job, None, 3, r"the ranks do not make the same call: .* f32 x 100000; on rank 2 .* f32 x 99999", 20)
        job.wait(20)


def a_rank_that_leaves(launch):
    with launch(3, "loop", "--seconds", 20, "--leave-rank", 0) as job:
        everyone_but(job, 0, 3, r"rank 0 \(.*\) has left", 20)


def no_hurry_to_end(launch):
    """Ranks that end their work in any order end well."""
    with launch(3, "loop", "--seconds", 1) as job:
        assert not any(job.wait(30)), job.read()
        assert re.search(r"^\d+ collectives; .*slow", job.read(), re.M), job.read()


def a_rank_that_never_starts(_):
    with tcp(2, "check", "--rendezvous", 1.5, world=3) as job:
        assert job.wait(20) == [1, 1]
        assert len(re.findall(r"^error: after 1.5 s rank 2 of 3 had not come to 127.0.0.1:\d+", job.read(), re.M)) == 2, job.read()


def no_mpi_library(_):
    """The program starts without MPI; under mpirun it says what is missing."""
    env = ENV | {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2", "RHETOR_MPI": "/nowhere/librhetor_mpi.so"}
    done = subprocess.run([str(PROBE), "check"], env=env, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1 and re.search(r"^error: .*the MPI backend cannot be loaded .*nowhere", done.stderr, re.M), done.stderr


def run_quiet(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=20).returncode == 0


def two_hosts(_):
    """Two network namespaces joined by a cable: the ranks meet over real addresses, and a cut cable is noticed."""
    if not shutil.which("ip") or os.geteuid() != 0:
        raise Skip("needs root and iproute2")
    a, b = f"rh{os.getpid()}a", f"rh{os.getpid()}b"
    try:
        if not run_quiet("ip", "netns", "add", a) or not run_quiet("ip", "netns", "add", b):
            raise Skip("network namespaces are not allowed here")
        steps = [("ip", "link", "add", a, "netns", a, "type", "veth", "peer", "name", b, "netns", b)]
        for name, address in ((a, "10.77.0.1/24"), (b, "10.77.0.2/24")):
            steps += [("ip", "-n", name, "addr", "add", address, "dev", name), ("ip", "-n", name, "link", "set", name, "up"),
                      ("ip", "-n", name, "link", "set", "lo", "up")]
        for step in steps:
            if not run_quiet(*step):
                raise Skip("virtual cables are not allowed here: " + " ".join(step))
        host = lambda rank: ["ip", "netns", "exec", a if rank < 2 else b]
        expected = checked(tcp(3, "check"))
        assert checked(tcp(3, "check", prefix=host, address="10.77.0.1")) == expected
        # Ranks 0 and 1 on one host, which rank 1 reaches by another name than rank 2 must use.
        with tcp(3, "loop", "--seconds", 60, "--silence", 3, prefix=host, address="10.77.0.1") as job:
            job.until(r"^rank \d of 3 .*process \d+$", 3, 30)
            time.sleep(0.3)
            assert run_quiet("ip", "-n", a, "link", "set", a, "down")
            took = everyone_but(job, 2, 3, r"rank 2 \(.*\) is lost: ", 20)
        return f"a cut cable named after {took:.2f} s"
    finally:
        for name in (a, b):
            run_quiet("ip", "netns", "del", name)


def main():
    failed = 0
    shared = [same_bits_on_every_backend, a_killed_rank, a_stopped_rank, a_sleeping_rank, another_size, a_rank_that_leaves, no_hurry_to_end]
    cases = [(case, name, launch) for name, launch in (("tcp", tcp), ("mpi", mpi)) for case in shared]
    cases += [(case, "tcp", None) for case in (a_rank_that_never_starts, no_mpi_library, two_hosts)]
    wanted = sys.argv[1:]
    for case, name, launch in cases:
        title = f"{case.__name__} {name}"
        if wanted and not any(word in title for word in wanted):
            continue
        begin = time.time()
        try:
            said = case(launch)
            print(f"ok    {title} ({time.time() - begin:.1f} s){': ' + said if said else ''}", flush=True)
        except Skip as why:
            print(f"skip  {title}: {why}", flush=True)
        except Exception as error:
            failed += 1
            print(f"FAIL  {title}: {type(error).__name__}: {error}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
