#!/usr/bin/env python3
"""Load for a service, from the standard library alone (asyncio, one thread).

    tests/load.py --seconds 3600 --model DIR-OR-PLAN     mixed load: routes, sizes, streams, clients that leave, slow readers, bad requests
    tests/load.py --streams 1000 --model PLAN            so many streams open at the same time, all of them to their end
    tests/load.py ... --url http://host:port             a service that runs already (its memory is read from /metrics)

Prints rates, latencies (p50, p99), memory at the start, every tenth of the time and at the end, and every kind of failure. The exit status is 1 if
anything came back that should not, or memory grew by more than --growth. A service started here is the one that RHETOR names (see
harness.py); without --model a small one is trained first."""
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
    def __init__(self, url, key=None):
        parts = urllib.parse.urlsplit(url)
        self.host, self.port = parts.hostname, parts.port or 80
        self.key = f"Authorization: Bearer {key}\r\n" if key else ""
        self.first, self.whole = collections.defaultdict(list), collections.defaultdict(list)   # seconds, by kind of request
        self.statuses, self.failures = collections.Counter(), collections.Counter()
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
        self.statuses[status] += 1
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

    async def keep_alive(self, rng):
        """Several requests on one connection, sent at once."""
        routes = [("/healthz", None), ("/v1/completions", {"prompt": "Anna", "max_tokens": 5, "stream": True}), ("/v1/models", None),
                  ("/v1/completions", {"prompt": 7}), ("/metrics", None)]
        started = time.monotonic()
        async with self.connection() as (reader, writer):
            writer.write(b"".join(self.text(route, body, keep=True) for route, body in routes))
            for route, _ in routes:
                reply = await self.read(reader, "pipelined", started)
                self.expect(reply, 400 if routes.index((route, _)) == 3 else 200)


async def memory(client):
    reply = await client.ask("metrics", "/metrics", None)
    for line in reply.body.decode().splitlines():
        if line.startswith("process_resident_memory_bytes "):
            return float(line.split()[1]) / 1e6
    raise Failed("the service's metrics hold no memory")


def percentile(values, share):
    return 1e3 * sorted(values)[min(len(values) - 1, int(share * len(values)))]


def report(client, seconds):
    total = sum(client.statuses.values())
    print(f"{total} answers in {seconds:.1f} s: {total / seconds:.1f}/s, {client.tokens / seconds:.0f} tokens/s; by status {dict(sorted(client.statuses.items()))}")
    print(f"{'ms':<12}{'count':>8}{'first p50':>11}{'p99':>9}{'whole p50':>11}{'p99':>9}")
    for kind, whole in sorted(client.whole.items()):
        first = client.first[kind]
        print(f"{kind:<12}{len(whole):>8}{percentile(first, .5):>11.1f}{percentile(first, .99):>9.1f}{percentile(whole, .5):>11.1f}{percentile(whole, .99):>9.1f}")


async def mixed(client, arguments, capabilities):
    kinds = [(client.completion, 6), (client.stream, 8), (client.leave, 3), (client.slow, 1), (client.bad, 3), (client.too_large, 1), (client.keep_alive, 2)]
    if "embeddings" in capabilities:
        kinds += [(client.embed, 4), (client.rank, 2)]
    end = time.monotonic() + arguments.seconds

    async def worker(number):
        rng = random.Random(arguments.seed * 1000 + number)
        while time.monotonic() < end:
            run = rng.choices([k for k, _ in kinds], [w for _, w in kinds])[0]
            try:
                await asyncio.wait_for(run(rng), 120)
            except (Failed, OSError, EOFError, ValueError, KeyError, asyncio.TimeoutError) as error:
                client.failures[f"{run.__name__}: {type(error).__name__} {str(error)[:200]}"] += 1

    async def watch():
        seen = []
        for _ in range(10):
            await asyncio.sleep(arguments.seconds / 10)
            with contextlib.suppress(Exception):
                seen.append(await memory(client))
                print(f"{seen[-1]:.1f} MB", flush=True)
        return seen

    started = time.monotonic()
    start = await memory(client)
    print(f"memory at the start {start:.1f} MB", flush=True)
    watcher = asyncio.create_task(watch())
    await asyncio.gather(*(worker(i) for i in range(arguments.clients)))
    await watcher
    report(client, time.monotonic() - started)
    await asyncio.sleep(1)
    last = await memory(client)
    seen = watcher.result()
    # Executables for lengths that did not come before are compiled in the first half: that is no leak.
    warm = seen[len(seen) // 2] if seen else start
    print(f"memory: start {start:.1f} MB, after half of the time {warm:.1f} MB, end {last:.1f} MB")
    health = json.loads((await client.ask("health", "/healthz", None)).body)
    if health["running"] or health["waiting"]:
        client.failures[f"left behind: {health}"] += 1
    if last > warm * (1 + arguments.growth) + 10:
        client.failures[f"memory grew from {warm:.1f} to {last:.1f} MB"] += 1


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
    parser.add_argument("--streams", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=64, help="of each of the --streams")
    parser.add_argument("--slots", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--growth", type=float, default=0.1, help="share by which memory may grow in the second half of the time")
    arguments = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, arguments.streams + arguments.clients + 256)), hard))
    failures = 0

    async def run(url):
        nonlocal failures
        client = Client(url, arguments.key)
        listed = json.loads((await client.ask("models", "/v1/models", None)).body)["data"]
        await (streams(client, arguments) if arguments.streams else mixed(client, arguments, {c for m in listed for c in m["capabilities"]}))
        for failure, count in client.failures.most_common(20):
            print(f"FAILED {count} x {failure}")
        failures = sum(client.failures.values())

    if arguments.url:
        asyncio.run(run(arguments.url))
    else:
        folder = None if arguments.model else harness.model()
        models = [pathlib.Path(m).resolve() for m in arguments.model] or ([folder / "model.plan"] if arguments.streams else [folder / "model.plan", folder])
        names = [word for i in range(len(models)) for word in ("--name", f"model{i}")]
        queue = ["--queue", arguments.streams] if arguments.streams else []
        slots = ["--slots", arguments.slots] if arguments.slots else []
        with harness.Service(*models, *names, *queue, *slots) as service:
            asyncio.run(run(service.url))
    print("ok" if not failures else f"{failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    try:
        code = main()
    finally:
        harness.clean_up()
    sys.exit(code)
