#!/usr/bin/env python3
"""Load for a service, from the standard library alone (asyncio, one thread).

    tests/load.py --seconds 60                           mixed load as fast as it goes: every route, streams, clients that leave, slow readers,
                                                         bursts beyond the queue, deadlines, wrong keys, bad and too large requests
    tests/load.py --seconds 3600 --rate 8 --html F       the same for an hour at 8 requests a second; a page with memory over time
    tests/load.py --streams 1000 --model PLAN            so many streams open at the same time, all of them to their end
    tests/load.py --tsan --seconds 300                   the service built with ThreadSanitizer: first  cmake --preset tsan
                                                         and  cmake --build build/tsan --target rhetor; any race is a failure
    tests/load.py ... --url http://host:port             a service that runs already (its memory is read from /metrics)

Prints rates, latencies (p50, p99), answers by kind and status, memory at the start, after each twelfth of the time and at the end, and every kind
of failure. The exit status is 1 if anything came back that should not, or memory grew by more than --growth in the second half of the time. A
service started here is the one that RHETOR names (see harness.py); without --model small ones are trained first: a text generator as plan and as
folder, a classifier, a tagger and one that answers questions."""
import argparse
import asyncio
import collections
import contextlib
import json
import pathlib
import random
import resource
import sys
import time
import urllib.parse

import harness
import load_models
import load_page

WORDS = "the boat harbour lamp Anna keeps morning walks library kettle 海边 Zürich 🐟 <|end|> it's 42".split()


class Failed(Exception):
    pass


class Reply:
    def __init__(self, status, head, body):
        self.status, self.head, self.body = status, head, body


async def read_head(reader):
    line = await reader.readline()
    if not line:
        raise Failed("no answer")
    status, head = int(line.split()[1]), {}
    while (line := await reader.readline()).strip():
        name, _, value = line.decode().partition(":")
        head[name.lower()] = value.strip()
    return status, head


async def chunks(reader):
    while size := int(await reader.readline(), 16):
        yield (await reader.readexactly(size + 2))[:-2]
    await reader.readline()


class Client:
    def __init__(self, url, key=None, burst_size=32):
        self.burst_size = burst_size
        parts = urllib.parse.urlsplit(url)
        self.host, self.port = parts.hostname, parts.port or 80
        self.key = f"Authorization: Bearer {key}\r\n" if key else ""
        self.first, self.whole = collections.defaultdict(list), collections.defaultdict(list)   # seconds, by kind of request
        self.statuses, self.failures = collections.Counter(), collections.Counter()   # statuses: of (kind, number)
        self.tokens = 0

    def text(self, route, body, keep=False):
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        head = f"{'GET' if body is None else 'POST'} {route} HTTP/1.1\r\nHost: x\r\n{self.key}Content-Length: {len(data)}\r\n"
        return (head + ("" if keep else "Connection: close\r\n") + "\r\n").encode() + data

    @contextlib.asynccontextmanager
    async def connection(self, limit=1 << 16):
        reader, writer = await asyncio.open_connection(self.host, self.port, limit=limit)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def read(self, reader, kind, started):
        status, head = await read_head(reader)
        body = b""
        if "content-length" in head:
            body = await reader.readexactly(int(head["content-length"]))
            self.first[kind].append(time.monotonic() - started)
        else:
            async for chunk in chunks(reader):
                if not body:
                    self.first[kind].append(time.monotonic() - started)
                body += chunk
        self.whole[kind].append(time.monotonic() - started)
        self.statuses[kind, status] += 1
        return Reply(status, head, body)

    async def ask(self, kind, route, body):
        started = time.monotonic()
        async with self.connection() as (reader, writer):
            writer.write(self.text(route, body))
            await writer.drain()
            return await self.read(reader, kind, started)

    # ---- kinds of requests: each checks what must hold ----

    def expect(self, reply, *statuses):
        # A full queue is no failure: it says when to come back.
        if reply.status == 429 and "retry-after" in reply.head:
            return False
        if reply.status not in statuses:
            raise Failed(f"status {reply.status}: {reply.body[:200]!r}")
        return True

    async def completion(self, rng):
        body = {"prompt": " ".join(rng.choices(WORDS, k=rng.randint(1, 30))), "max_tokens": rng.randint(1, 60), "temperature": rng.choice([0, 0.7, 1]),
                "n": rng.choice([1, 1, 1, 3]), "logprobs": rng.choice([None, None, 3]), "stop": rng.choice([None, ["."]]), "seed": rng.randrange(1000)}
        reply = await self.ask("completion", "/v1/completions", body)
        if self.expect(reply, 200):
            answer = json.loads(reply.body)
            if len(answer["choices"]) != body["n"]:
                raise Failed("not every answer came")
            self.tokens += answer["usage"]["completion_tokens"]

    async def stream(self, rng):
        body = {"messages": [{"role": "user", "content": " ".join(rng.choices(WORDS, k=rng.randint(1, 40)))}], "max_tokens": rng.randint(1, 120),
                "stream": True, "stream_options": {"include_usage": True}}
        reply = await self.ask("stream", "/v1/chat/completions", body)
        if self.expect(reply, 200):
            events = reply.body.decode().strip().split("\n\n")
            if events[-1] != "data: [DONE]":
                raise Failed(f"the stream ends with {events[-1][:100]}")
            self.tokens += json.loads(events[-2][6:])["usage"]["completion_tokens"]

    async def leave(self, rng):
        """A client that goes away: in the request, before the answer, in the middle of it."""
        where = rng.randrange(3)
        async with self.connection() as (reader, writer):
            data = self.text("/v1/completions", {"prompt": "The boat", "max_tokens": 400, "stream": True})
            writer.write(data[:rng.randrange(1, len(data))] if where == 0 else data)
            await writer.drain()
            if where == 2:
                await reader.read(200)
            writer.transport.abort()

    async def slow(self, rng):
        """A client that reads a little at a time."""
        async with self.connection(limit=1024) as (reader, writer):
            writer.write(self.text("/v1/completions", {"prompt": "The boat", "max_tokens": 100, "stream": True}))
            for _ in range(rng.randrange(5, 40)):
                if not await reader.read(100):
                    break
                await asyncio.sleep(0.02)

    async def bad(self, rng):
        route = rng.choice(["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/rank", "/v1/classify", "/v1/qa", "/v1/tag"])
        body = rng.choice([b"", b"{", b"\xff\xfe", b"[" * 50000, b"{}", {"prompt": 5}, {"messages": [{}]}, {"input": [1]}, {"query": "q", "documents": {}},
                           {"prompt": "a", "temperature": 1e9}, {"input": "a", "model": "nobody"}])
        self.expect(await self.ask("bad", route, body), 400, 404)

    async def too_large(self, rng):
        with contextlib.suppress(ConnectionError):   # the service may close before all of it is sent
            self.expect(await self.ask("too large", "/v1/completions", {"prompt": "x" * (3 << 20)}), 413, 400)

    async def burst(self, rng):
        """More at once than wait: each is answered or told to come back."""
        body = {"prompt": "The boat", "max_tokens": 20}
        replies = await asyncio.gather(*(self.ask("burst", "/v1/completions", {**body, "seed": i}) for i in range(self.burst_size)))
        for reply in replies:
            self.expect(reply, 200)

    async def deadline(self, rng):
        """So little time that it runs out: while waiting (504) or in the middle of the answer."""
        body = {"prompt": "Anna", "max_tokens": 400, "timeout": rng.choice([0.001, 0.02, 0.1])}
        reply = await self.ask("deadline", "/v1/completions", body)
        if self.expect(reply, 200, 504) and reply.status == 200:
            reason = json.loads(reply.body)["choices"][0]["finish_reason"]
            if reason not in ("deadline", "length", "stop"):
                raise Failed(f"ended with {reason}")

    async def conversation(self, rng):
        """Longer than the context: its oldest turns are left out; a prompt is refused."""
        turns = [{"role": role, "content": " ".join(rng.choices(WORDS, k=20))} for _ in range(60) for role in ("user", "assistant")]
        body = {"messages": turns + [{"role": "user", "content": "Who?"}], "max_tokens": 8, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.1}
        self.expect(await self.ask("conversation", "/v1/chat/completions", body), 200)
        self.expect(await self.ask("too long", "/v1/completions", {"prompt": "boat " * 5000}), 400)

    async def beams(self, rng):
        body = {"prompt": "The lamp", "max_tokens": 12, "beams": rng.randint(2, 4), "logit_bias": {"5": -100}}
        self.expect(await self.ask("beams", "/v1/completions", body), 200)

    async def stranger(self, rng):
        """A wrong key, and none."""
        for key in ("Authorization: Bearer nobody\r\n", ""):
            started = time.monotonic()
            async with self.connection() as (reader, writer):
                writer.write(self.text("/v1/completions", {"prompt": "a"}).replace(self.key.encode(), key.encode()))
                self.expect(await self.read(reader, "stranger", started), 401)

    async def idle(self, rng):
        """Connected, silent or in the middle of a head, gone."""
        async with self.connection() as (_, writer):
            writer.write(rng.choice([b"", b"GET /heal", b"POST /v1/completions HTTP/1.1\r\nContent-Length: 50\r\n\r\n{"]))
            await asyncio.sleep(rng.uniform(0, 3))

    async def embed(self, rng):
        texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 60))) for _ in range(rng.randint(1, 8))]
        reply = await self.ask("embed", "/v1/embeddings", {"input": texts, "truncate": True, "encoding_format": rng.choice(["float", "base64"])})
        if self.expect(reply, 200) and len(json.loads(reply.body)["data"]) != len(texts):
            raise Failed("not every embedding came")

    async def rank(self, rng):
        documents = [" ".join(rng.choices(WORDS, k=10)) for _ in range(rng.randint(1, 10))]
        reply = await self.ask("rank", "/v1/rank", {"query": "boat", "documents": documents})
        if self.expect(reply, 200) and len(json.loads(reply.body)["results"]) != len(documents):
            raise Failed("not every score came")

    async def classify(self, rng):
        texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 30))) for _ in range(rng.randint(1, 8))]
        reply = await self.ask("classify", "/v1/classify", {"input": texts})
        if self.expect(reply, 200) and len(json.loads(reply.body)["data"]) != len(texts):
            raise Failed("not every label came")

    async def tag(self, rng):
        text = " ".join(rng.choices(WORDS, k=rng.randint(1, 20)))
        reply = await self.ask("tag", "/v1/tag", {"input": text})
        if self.expect(reply, 200) and not json.loads(reply.body)["data"][0]["words"]:
            raise Failed("no word was tagged")

    async def question(self, rng):
        passage = ". ".join(" ".join(rng.choices(WORDS, k=12)) for _ in range(rng.randint(1, 20)))
        reply = await self.ask("qa", "/v1/qa", {"question": "Who keeps the lamp?", "passage": passage, "top_k": 2})
        self.expect(reply, 200)

    async def keep_alive(self, rng):
        """Several requests on one connection, sent at once."""
        routes = [("/healthz", None), ("/v1/completions", {"prompt": "Anna", "max_tokens": 5, "stream": True}), ("/v1/models", None),
                  ("/v1/completions", {"prompt": 7}), ("/metrics", None), ("/", None), ("/nowhere", None)]
        started = time.monotonic()
        async with self.connection() as (reader, writer):
            writer.write(b"".join(self.text(route, body, keep=True) for route, body in routes))
            for number, _ in enumerate(routes):
                reply = await self.read(reader, "pipelined", started)
                self.expect(reply, {3: 400, 6: 404}.get(number, 200))


async def process(client):
    """Of the service: memory in MB, open files, seconds of CPU time."""
    reply = await client.ask("metrics", "/metrics", None)
    found = dict(line.split() for line in reply.body.decode().splitlines() if line.startswith("process_"))
    if "process_resident_memory_bytes" not in found:
        raise Failed("the service's metrics hold no memory")
    return float(found["process_resident_memory_bytes"]) / 1e6, int(found["process_open_fds"]), float(found["process_cpu_seconds_total"])


async def memory(client):
    return (await process(client))[0]


def percentile(values, share):
    return 1e3 * sorted(values)[min(len(values) - 1, int(share * len(values)))]


def figures(client, seconds):
    """What came back: by kind of request, in milliseconds."""
    kinds = []
    for kind, whole in sorted(client.whole.items()):
        first = client.first[kind]
        kinds.append({"kind": kind, "answers": len(whole), "first_p50_ms": percentile(first, .5), "first_p99_ms": percentile(first, .99),
                      "whole_p50_ms": percentile(whole, .5), "whole_p99_ms": percentile(whole, .99),
                      "statuses": {str(status): count for (of, status), count in sorted(client.statuses.items()) if of == kind}})
    total = sum(client.statuses.values())
    return {"seconds": seconds, "answers": total, "answers_per_s": total / seconds, "tokens_per_s": client.tokens / seconds, "kinds": kinds,
            "failures": dict(client.failures)}


def report(client, seconds):
    result = figures(client, seconds)
    print(f"{result['answers']} answers in {seconds:.1f} s: {result['answers_per_s']:.1f}/s, {result['tokens_per_s']:.0f} tokens/s")
    print(f"{'ms':<13}{'count':>8}{'first p50':>11}{'p99':>9}{'whole p50':>11}{'p99':>9}  by status")
    for k in result["kinds"]:
        print(f"{k['kind']:<13}{k['answers']:>8}{k['first_p50_ms']:>11.1f}{k['first_p99_ms']:>9.1f}{k['whole_p50_ms']:>11.1f}{k['whole_p99_ms']:>9.1f}"
              f"  {', '.join(f'{status}: {count}' for status, count in k['statuses'].items())}")
    return result


def mix(client, capabilities):
    """(kind of request, weight); a burst counts for as many as it sends."""
    kinds = [(client.completion, 6), (client.stream, 8), (client.leave, 3), (client.slow, 1), (client.bad, 3), (client.too_large, 1), (client.keep_alive, 2),
             (client.burst, 0.5), (client.deadline, 2), (client.conversation, 1), (client.beams, 1), (client.idle, 1)]
    if client.key:
        kinds.append((client.stranger, 1))
    if "embeddings" in capabilities:
        kinds += [(client.embed, 4), (client.rank, 2)]
    for capability, run in (("classify", client.classify), ("tag", client.tag), ("qa", client.question)):
        if capability in capabilities:
            kinds.append((run, 2))
    return kinds


async def mixed(client, arguments, capabilities):
    kinds = mix(client, capabilities)
    end = time.monotonic() + arguments.seconds

    async def worker(number):
        rng = random.Random(arguments.seed * 1000 + number)
        while time.monotonic() < end:
            if arguments.rate:
                await asyncio.sleep(min(rng.expovariate(arguments.rate / arguments.clients), max(0, end - time.monotonic())))
            run = rng.choices([k for k, _ in kinds], [w for _, w in kinds])[0]
            try:
                await asyncio.wait_for(run(rng), arguments.patience)
            except (Failed, OSError, EOFError, ValueError, KeyError, asyncio.TimeoutError) as error:
                client.failures[f"{run.__name__}: {type(error).__name__} {str(error)[:200]}"] += 1

    started = time.monotonic()
    samples = [(0.0, *await process(client))]   # (seconds, MB, open files, seconds of CPU time)
    print(f"memory at the start {samples[0][1]:.1f} MB", flush=True)

    async def watch():
        next_line = arguments.seconds / 12
        while (now := time.monotonic()) < end:
            await asyncio.sleep(min(arguments.sample, end - now))
            with contextlib.suppress(Exception):
                samples.append((time.monotonic() - started, *await process(client)))
                if samples[-1][0] >= next_line:
                    next_line += arguments.seconds / 12
                    print(f"{samples[-1][0]:7.0f} s {samples[-1][1]:9.1f} MB {samples[-1][2]:5} open files", flush=True)

    watcher = asyncio.create_task(watch())
    await asyncio.gather(*(worker(i) for i in range(arguments.clients)))
    await watcher
    seconds = time.monotonic() - started
    await asyncio.sleep(1)
    samples.append((time.monotonic() - started, *await process(client)))
    # Executables for lengths that did not come before are compiled in the first half: that is no leak.
    start, last = samples[0][1], samples[-1][1]
    warm = next(sample[1] for sample in samples if sample[0] >= seconds / 2)
    health = json.loads((await client.ask("health", "/healthz", None)).body)
    if health["running"] or health["waiting"]:
        client.failures[f"left behind: {health}"] += 1
    if last > warm * (1 + arguments.growth) + 10:
        client.failures[f"memory grew from {warm:.1f} to {last:.1f} MB"] += 1
    if samples[-1][2] > samples[0][2] + 8:
        client.failures[f"open files grew from {samples[0][2]} to {samples[-1][2]}"] += 1
    result = report(client, seconds)
    print(f"memory: start {start:.1f} MB, after half of the time {warm:.1f} MB, end {last:.1f} MB; CPU {(samples[-1][3] - samples[0][3]) / seconds:.2f} cores")
    result["samples"] = [dict(zip(("seconds", "memory_mb", "open_files", "cpu_seconds"), sample)) for sample in samples]
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n")
    if arguments.html:
        pathlib.Path(arguments.html).write_text(load_page.page(result))


async def streams(client, arguments):
    """All connect and send first; the answers are read when every one is open."""
    count = arguments.streams
    body = {"prompt": "The boat", "max_tokens": arguments.tokens, "temperature": 1, "stream": True, "stream_options": {"include_usage": True}}
    before = await memory(client)
    started = time.monotonic()
    open_now, most, lengths = 0, 0, []

    async def one(number):
        nonlocal open_now, most
        try:
            async with client.connection() as (reader, writer):
                writer.write(client.text("/v1/completions", {**body, "seed": number}))
                await writer.drain()
                open_now += 1
                most = max(most, open_now)
                reply = await client.read(reader, "stream", started)
                open_now -= 1
            client.expect(reply, 200)
            events = reply.body.decode().strip().split("\n\n")
            if events[-1] != "data: [DONE]":
                raise Failed(f"the stream ends with {events[-1][:100]}")
            lengths.append(json.loads(events[-2][6:])["usage"]["completion_tokens"])
        except (Failed, OSError, EOFError, ValueError) as error:
            client.failures[f"stream: {type(error).__name__} {str(error)[:200]}"] += 1

    async def watch(peak):
        while True:
            await asyncio.sleep(0.5)
            with contextlib.suppress(OSError):
                peak[0] = max(peak[0], await memory(client))

    peak = [before]
    watcher = asyncio.create_task(watch(peak))
    await asyncio.gather(*(one(i) for i in range(count)))
    watcher.cancel()
    client.tokens = sum(lengths)
    report(client, time.monotonic() - started)
    print(f"{len(lengths)} of {count} streams complete, {most} open at once; memory {before:.1f} MB before, {peak[0]:.1f} MB at most, {await memory(client):.1f} MB after")
    if len(lengths) != count:
        client.failures["incomplete streams"] += count - len(lengths)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url")
    parser.add_argument("--key", help="API key")
    parser.add_argument("--model", action="append", default=[], help="model folder or plan; several times for several models")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rate", type=float, default=0, help="requests a second of all clients together; 0 = as fast as they are answered")
    parser.add_argument("--sample", type=float, default=10, help="seconds between two looks at the memory")
    parser.add_argument("--patience", type=float, default=120, help="seconds after which a request without an answer is a failure")
    parser.add_argument("--queue", type=int, default=16, help="requests that may wait; a burst is twice as many")
    parser.add_argument("--json", metavar="F", help="write all figures to F")
    parser.add_argument("--html", metavar="F", help="write a page with tables and a picture of the memory to F")
    parser.add_argument("--tsan", nargs="?", const=harness.ROOT / "build/tsan/rhetor", metavar="PROGRAM", type=pathlib.Path,
                        help="serve with this program, built with ThreadSanitizer (build/tsan/rhetor); models are still made by the usual one")
    parser.add_argument("--streams", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=64, help="of each of the --streams")
    parser.add_argument("--slots", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--growth", type=float, default=0.1, help="share by which memory may grow in the second half of the time")
    arguments = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, arguments.streams + arguments.clients + 256)), hard))
    failures = 0

    async def run(url, key):
        nonlocal failures
        client = Client(url, key, 2 * arguments.queue)
        listed = json.loads((await client.ask("models", "/v1/models", None)).body)["data"]
        await (streams(client, arguments) if arguments.streams else mixed(client, arguments, {c for m in listed for c in m["capabilities"]}))
        for failure, count in client.failures.most_common(20):
            print(f"FAILED {count} x {failure}")
        failures = sum(client.failures.values())

    if arguments.url:
        asyncio.run(run(arguments.url, arguments.key))
    else:
        models = [pathlib.Path(m).resolve() for m in arguments.model] or (load_models.generator() if arguments.streams else load_models.every_task())
        names = [word for i in range(len(models)) for word in ("--name", f"model{i}")]
        slots = ["--slots", arguments.slots] if arguments.slots else []
        key = arguments.key or "a-key-for-this-test"
        harness.ENV["RHETOR_API_KEYS"] = key
        if arguments.tsan:
            if not arguments.tsan.exists():
                sys.exit(f"{arguments.tsan} does not exist; cmake --preset tsan && cmake --build build/tsan --target rhetor")
            harness.PROGRAM = arguments.tsan
            harness.ENV["TSAN_OPTIONS"] = f"suppressions={harness.ROOT / 'tools/tsan.supp'}"   # its exit status after a race is 66
        log = ["--log", "json", "--log-file", harness.SCRATCH / "access.log"]
        with harness.Service(*models, *names, "--queue", arguments.streams or arguments.queue, *slots, *log) as service:
            asyncio.run(run(service.url, key))
    print("ok" if not failures else f"{failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    try:
        code = main()
    finally:
        harness.clean_up()
    sys.exit(code)
