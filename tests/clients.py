#!/usr/bin/env python3
"""The service under the official OpenAI Python client, installed from the Python registry into a throw-away environment."""
import subprocess
import sys
import textwrap
import venv

import harness

CLIENT = textwrap.dedent('''
    import sys
    import openai
    client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="none")
    name = client.models.list().data[0].id
    user = [{"role": "user", "content": "Hello"}]
    reply = client.chat.completions.create(model=name, messages=user, max_tokens=8, temperature=0, seed=1)
    whole = reply.choices[0].message.content
    assert reply.usage.completion_tokens > 0 and reply.choices[0].finish_reason in ("stop", "length")
    pieces = [c.choices[0].delta.content or "" for c in client.chat.completions.create(
        model=name, messages=user, max_tokens=8, temperature=0, seed=1, stream=True) if c.choices]
    assert "".join(pieces) == whole, (pieces, whole)
    text = client.completions.create(model=name, prompt="Anna keeps", max_tokens=5).choices[0].text
    assert isinstance(text, str)
    try:
        client.chat.completions.create(model=name, messages=[{"role": "user", "content": "word " * 5000}])
        raise SystemExit("a prompt over the context was accepted")
    except openai.BadRequestError as error:
        assert "context" in str(error)
    try:
        client.chat.completions.create(model="nobody", messages=user)
        raise SystemExit("an unknown model was accepted")
    except openai.NotFoundError:
        pass
    print("openai", openai.__version__, "ok")
''')

if __name__ == "__main__":
    try:
        folder = harness.SCRATCH / "venv"
        venv.create(folder, with_pip=True)
        subprocess.run([folder / "bin/pip", "install", "-q", "openai"], check=True)
        with harness.Service(harness.model() / "model.plan") as service:
            done = subprocess.run([folder / "bin/python", "-c", CLIENT, service.url], timeout=120)
        sys.exit(done.returncode)
    finally:
        harness.clean_up()
