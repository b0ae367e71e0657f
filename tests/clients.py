#!/usr/bin/env python3
"""The service under the official OpenAI Python client, installed from the Python registry into a throw-away environment: chat, completions,
embeddings, streams, log-probabilities, several answers, errors, keys, the asynchronous client.

RHETOR_OPENAI names the Python of an environment that has the client already."""
import os
import subprocess
import sys
import venv

import harness

KEY = "clients-test-secret"
USER = [{"role": "user", "content": "Hello"}]


def expect(error, call, says=""):
    """`call` must raise `error` with a message that contains `says`."""
    try:
        call()
    except error as found:
        assert says in str(found), found
        return found
    raise SystemExit(f"{error.__name__} was expected and did not come")


def models(client):
    listed = client.models.list().data
    assert [m.id for m in listed] == ["writer", "reader"], listed
    assert client.models.retrieve("reader").id == "reader"
    assert "embeddings" in listed[1].capabilities and listed[0].context > 0


def chat(client):
    import openai
    ask = dict(model="writer", messages=USER, max_tokens=8, temperature=0, seed=1)
    reply = client.chat.completions.create(**ask)
    whole = reply.choices[0].message.content
    assert reply.usage.completion_tokens > 0 and reply.choices[0].finish_reason in ("stop", "length")
    assert reply._request_id, "replies carry their request's id"

    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-1].usage == reply.usage and not chunks[-1].choices
    assert {c.id for c in chunks} == {chunks[0].id}

    # The client's own helper that puts a stream together again.
    helper = client.chat.completions if hasattr(client.chat.completions, "stream") else client.beta.chat.completions
    with helper.stream(**ask) as stream:
        for _ in stream:
            pass
        assert stream.current_completion_snapshot.choices[0].message.content == whole

    several = client.chat.completions.create(model="writer", messages=USER, max_completion_tokens=6, n=3, temperature=1, seed=3)
    assert [c.index for c in several.choices] == [0, 1, 2]

    scored = client.chat.completions.create(**ask, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert all(t.logprob <= 0 and len(t.top_logprobs) == 2 for t in scored) and bytes(b for t in scored for b in t.bytes).decode(errors="replace")

    full = client.chat.completions.create(**{**ask, "max_tokens": 60}).choices[0].message.content
    if len(full) > 6:
        word = full[4:6]
        stopped = client.chat.completions.create(**{**ask, "max_tokens": 60}, stop=[word])
        assert stopped.choices[0].message.content == full[:full.index(word)] and stopped.choices[0].finish_reason == "stop"
    biased = client.chat.completions.create(**ask, logit_bias={"65": 100}, extra_body={"min_p": 0.1, "repetition_penalty": 1.0})
    assert biased.choices[0].message.content.startswith("A" * 5), biased

    # A stream that is closed early: the service goes on for others.
    stream = client.chat.completions.create(**{**ask, "max_tokens": 200}, stream=True)
    next(iter(stream))
    stream.close()
    assert client.chat.completions.create(**ask).choices[0].message.content == whole

    late = client.chat.completions.create(**ask, extra_body={"timeout": 30})
    assert late.choices[0].message.content == whole
    expect(openai.BadRequestError, lambda: client.chat.completions.create(model="writer", messages=[{"role": "user", "content": "word " * 50000}]), "context")


def completions(client):
    reply = client.completions.create(model="writer", prompt=["Anna keeps", "Boris keeps"], max_tokens=5, n=2, seed=1, logprobs=2, echo=False)
    assert [c.index for c in reply.choices] == [0, 1, 2, 3]
    assert len(reply.choices[0].logprobs.tokens) == len(reply.choices[0].logprobs.token_logprobs)
    echoed = client.completions.create(model="writer", prompt="Anna keeps", max_tokens=5, echo=True, temperature=0).choices[0].text
    assert echoed.startswith("Anna keeps")
    streamed = "".join(c.choices[0].text for c in client.completions.create(model="writer", prompt="Anna keeps", max_tokens=5, echo=True, temperature=0, stream=True))
    assert streamed == echoed, (streamed, echoed)


def embeddings(client):
    texts = ["The boat is in the harbour.", "A boat lies in the harbour.", "kettle"]
    plain = client.embeddings.create(model="reader", input=texts, encoding_format="float")
    packed = client.embeddings.create(model="reader", input=texts)   # the client asks for base64 and unpacks it
    assert [e.index for e in plain.data] == [0, 1, 2] and plain.usage.total_tokens > 3
    for a, b in zip(plain.data, packed.data):
        assert max(abs(x - y) for x, y in zip(a.embedding, b.embedding)) < 1e-6
        assert abs(sum(x * x for x in a.embedding) - 1) < 1e-4
    alone = client.embeddings.create(model="reader", input=texts[0], encoding_format="float").data[0].embedding
    assert max(abs(x - y) for x, y in zip(alone, plain.data[0].embedding)) < 1e-4, "a result depends on its neighbours"
    short = client.embeddings.create(model="reader", input="a", dimensions=4, encoding_format="float").data[0].embedding
    assert len(short) == 4
    ranked = client.post("/rank", cast_to=object, body={"model": "reader", "query": texts[0], "documents": texts})
    assert ranked["results"][0]["index"] == 0, ranked


def errors(client, url):
    import openai
    found = expect(openai.NotFoundError, lambda: client.chat.completions.create(model="nobody", messages=USER), "nobody")
    assert found.code == "model_not_found" and found.type == "invalid_request_error" and found.request_id
    expect(openai.NotFoundError, lambda: client.models.retrieve("nobody"))
    expect(openai.BadRequestError, lambda: client.chat.completions.create(model="writer", messages=USER, temperature=7), "'temperature'")
    expect(openai.BadRequestError, lambda: client.chat.completions.create(model="writer", messages=[]), "'messages'")
    expect(openai.BadRequestError, lambda: client.chat.completions.create(model="writer", messages=USER, tools=[{"type": "function", "function": {"name": "f"}}]), "'tools'")
    expect(openai.BadRequestError, lambda: client.embeddings.create(model="reader", input=[]), "'input'")
    expect(openai.BadRequestError, lambda: client.embeddings.create(model="writer", input="a"), "writer")
    expect(openai.APIStatusError, lambda: client.chat.completions.create(model="writer", messages=[{"role": "user", "content": "x" * (2 << 20)}]), "1048576 bytes")
    stranger = openai.OpenAI(base_url=url + "/v1", api_key="somebody-elses-key", max_retries=0)
    expect(openai.AuthenticationError, lambda: stranger.models.list(), "API key")


async def asynchronous(url):
    import asyncio
    import openai
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key=KEY, max_retries=0) as client:
        async def one(seed):
            text = ""
            stream = await client.chat.completions.create(model="writer", messages=USER, max_tokens=20, seed=seed, stream=True)
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
            again = await client.chat.completions.create(model="writer", messages=USER, max_tokens=20, seed=seed)
            assert text == again.choices[0].message.content, (text, again)
        await asyncio.gather(*(one(seed) for seed in range(12)))


def inside(url):
    """Runs inside the environment that has the client."""
    import asyncio
    import openai
    client = openai.OpenAI(base_url=url + "/v1", api_key=KEY, max_retries=0)
    for step in (models, chat, completions, embeddings):
        step(client)
        print("ok:", step.__name__, flush=True)
    errors(client, url)
    print("ok: errors", flush=True)
    asyncio.run(asynchronous(url))
    print("ok: asynchronous; openai", openai.__version__, flush=True)


def main():
    python = os.environ.get("RHETOR_OPENAI")
    if not python:
        folder = harness.SCRATCH / "venv"
        venv.create(folder, with_pip=True)
        python = folder / "bin/python"
        subprocess.run([python, "-m", "pip", "install", "-q", "openai"], check=True)
    keys = harness.SCRATCH / "keys"
    keys.write_text(f"# the test's\nclients {KEY}\n")
    model = harness.model()
    with harness.Service(model / "model.plan", model, "--name", "writer", "--name", "reader", "--api-key-file", keys, "--log", "json",
                         "--log-file", harness.SCRATCH / "access.log") as service:
        done = subprocess.run([python, __file__, "--inside", service.url], timeout=300)
    if done.returncode:
        sys.exit(done.returncode)
    lines = (harness.SCRATCH / "access.log").read_text().splitlines()
    assert len(lines) > 40 and all('"id":"' in line and '"status":' in line for line in lines), lines[:3]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2])
    else:
        try:
            main()
        finally:
            harness.clean_up()
