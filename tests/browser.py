#!/usr/bin/env python3
"""The chat page in a real browser: Debian's chromium, driven by playwright from the Python registry in a throw-away environment.

Skipped (exit 0, with a line that says so) when either cannot be had. RHETOR_PLAYWRIGHT names the Python of an environment that has
playwright already; CHROMIUM another browser binary.
"""
import os
import pathlib
import shutil
import subprocess
import sys
import venv

import harness

LONG_WORD = "harbour "
KEY = "browser-test-secret"


def skip(why):
    print(f"skipped: {why}")
    sys.exit(0)


def check_page(url, locked_url, chromium):
    """Runs inside the environment that has playwright."""
    from playwright.sync_api import sync_playwright, expect

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 820, "height": 700})
        complaints = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        foreign = []
        page.on("request", lambda request: foreign.append(request.url) if not request.url.startswith((url, "data:")) else None)

        def hold():
            """Lets an answer stay unfinished until the page itself ends it, whatever the model says and however fast."""
            page.evaluate("""() => {
              window.realFetch = window.realFetch || window.fetch;
              window.fetch = (target, options) => {
                if (!options || !options.signal) return window.realFetch(target, options);
                const event = 'data: ' + JSON.stringify({choices: [{index: 0, delta: {content: 'half an answer'}}]}) + '\\n\\n';
                return Promise.resolve(new Response(new ReadableStream({ start(stream) {
                  stream.enqueue(new TextEncoder().encode(event));
                  options.signal.addEventListener('abort', () => stream.error(options.signal.reason));
                }})));
              };
            }""")

        def release():
            page.evaluate("() => { window.fetch = window.realFetch; }")

        def send(text):
            page.fill("#text", text)
            page.press("#text", "Enter")

        def idle():
            expect(page.locator("#send")).to_have_text("Send", timeout=60_000)

        def turns():
            return page.locator(".turn").all_inner_texts()

        def stored():
            return page.evaluate("() => JSON.parse(sessionStorage.getItem('rhetor-chat') || '[]').map(t => t.role)")

        def step(name):
            print("ok:", name, flush=True)

        page.goto(url)
        expect(page.locator("#model")).not_to_have_text("…")

        # Send, and watch it arrive in pieces.
        page.evaluate("""() => {
          window.seen = new Set();
          new MutationObserver(() => {
            const busy = document.querySelector('.busy');
            if (busy && busy.textContent) window.seen.add(busy.textContent);
          }).observe(document.getElementById('log'), { subtree: true, childList: true, characterData: true });
        }""")
        send("Hello")
        idle()
        assert len(turns()) == 2, turns()
        assert page.evaluate("() => window.seen.size") > 1, "the answer came in one piece"
        page.fill("#text", "Anna keeps the")
        page.click("#send")
        idle()
        assert stored() == ["user", "assistant"] * 2, stored()
        step("send and stream")

        # Reload.
        before = turns()
        page.reload()
        assert turns() == before, (before, turns())
        step("a reload keeps the conversation")

        # Stop keeps what has come.
        hold()
        send("Tell me more")
        expect(page.locator(".busy")).to_have_text("half an answer")
        page.click("#send")
        idle()
        assert turns()[-1] == "half an answer" and page.locator(".busy").count() == 0
        assert stored()[-1] == "assistant"
        step("stop")

        # New chat while an answer streams: the old answer must not turn up in the new conversation.
        send("And more")
        expect(page.locator(".busy")).to_have_text("half an answer")
        page.click("#clear")
        idle()
        assert turns() == [] and stored() == []
        release()
        send("Hello")
        idle()
        page.wait_for_timeout(200)
        assert stored() == ["user", "assistant"], stored()
        assert len(turns()) == 2
        page.reload()
        assert len(turns()) == 2
        step("new chat while streaming")

        # A conversation several times the context goes on.
        page.click("#clear")
        page.evaluate("""word => {
          const turns = [];
          for (let i = 0; i < 400; ++i) turns.push({ role: i % 2 ? 'assistant' : 'user', content: word + i });
          sessionStorage.setItem('rhetor-chat', JSON.stringify(turns));
        }""", LONG_WORD * 5)
        page.reload()
        for _ in range(3):
            send("Hello")
            idle()
            assert page.locator(".error").count() == 0, page.inner_text(".error")
        assert stored()[-6:] == ["user", "assistant"] * 3 and len(stored()) == 406
        step("a long conversation still answers")

        # What cannot be answered is explained, and the words are not lost.
        page.click("#clear")
        long = LONG_WORD * 3000
        send(long)
        expect(page.locator(".error")).to_contain_text("context")
        idle()
        assert page.input_value("#text") == long.strip()
        assert page.locator(".user").count() == 0 and stored() == []
        send("Hello")
        idle()
        assert page.locator(".error").count() == 0 and len(turns()) == 2
        step("an error is shown and the text kept")

        page.evaluate("() => sessionStorage.setItem('rhetor-chat', '{broken')")
        page.reload()
        send("Hello")
        idle()
        assert len(turns()) == 2
        step("a broken memory is forgotten")

        page.context.set_offline(True)
        send("Anybody there?")
        expect(page.locator(".error")).to_contain_text("cannot be reached")
        assert page.input_value("#text") == "Anybody there?"
        page.context.set_offline(False)
        step("a service that is gone")

        # A service that wants an API key: the page asks for it and remembers it until the tab is closed.
        locked = browser.new_page()
        locked.on("pageerror", lambda error: complaints.append(str(error)))
        locked.goto(locked_url)
        expect(locked.locator("#key")).to_be_visible()
        locked.fill("#text", "Hello")
        locked.press("#text", "Enter")
        expect(locked.locator(".error")).to_contain_text("API key")
        locked.fill("#key", KEY)
        locked.press("#key", "Enter")
        expect(locked.locator("#model option")).to_have_count(2)
        locked.select_option("#model", "second")
        locked.reload()
        expect(locked.locator("#model option")).to_have_count(2)
        locked.select_option("#model", "second")
        locked.fill("#text", "Hello")
        locked.press("#text", "Enter")
        expect(locked.locator("#send")).to_have_text("Send", timeout=60_000)
        assert locked.locator(".error").count() == 0, locked.inner_text(".error")
        assert locked.locator(".assistant").count() == 1
        step("a service with keys and two models")

        assert not complaints, complaints
        assert not foreign, f"the page asked other hosts: {foreign}"
        browser.close()


def main():
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not chromium:
        skip("no chromium; `apt-get install chromium` provides it")
    python = os.environ.get("RHETOR_PLAYWRIGHT")
    if not python:
        folder = harness.SCRATCH / "venv"
        venv.create(folder, with_pip=True)
        python = folder / "bin/python"
        if subprocess.run([python, "-m", "pip", "install", "-q", "playwright"]).returncode != 0:
            skip("playwright cannot be installed from the Python registry")
    plan = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else harness.model() / "model.plan"
    keys = harness.SCRATCH / "keys"
    keys.write_text(f"browser {KEY}\n")
    with harness.Service(plan) as service, harness.Service(plan, plan, "--name", "first", "--name", "second", "--api-key-file", keys) as locked:
        done = subprocess.run([python, __file__, "--inside", service.url, locked.url, chromium], timeout=300)
    sys.exit(done.returncode)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        check_page(*sys.argv[2:])
    else:
        try:
            main()
        finally:
            harness.clean_up()
