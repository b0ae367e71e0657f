#!/usr/bin/env python3
"""The whole program from outside: the newcomer's path, the service, bad input, kills. `--quick` leaves out the slow half."""
import concurrent.futures
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import unittest
import urllib.error  # noqa: F401  (harness uses it)

import harness
from harness import PROGRAM, ROOT, SCRATCH, Service, model, refused, rhetor, small_text

slow = unittest.skipIf("--quick" in sys.argv, "slow: in the full suite")


class Newcomer(unittest.TestCase):
    def test_help_teaches(self):
        out, _ = rhetor("--help")
        for command in "quickstart train generate chat eval compress compile explain serve bench".split():
            self.assertIn(command, out)
            page, _ = rhetor(command, "--help")
            self.assertIn("Examples:", page)
        refused("sevre", says="did you mean 'serve'")
        refused("train", "--frehs", says="did you mean --fresh")
        refused("bench", "models", says="ops, model, train, generate or tune")

    def test_quickstart(self):
        folder = model()
        numbers = json.loads((SCRATCH / "quickstart.json").read_text())
        self.assertLess(numbers["validation_loss"], numbers["first_loss"] * 0.6)
        self.assertLess(numbers["bytes_int8"], 0.5 * numbers["bytes_f32"])
        self.assertLess(abs(numbers["loss_int8"] - numbers["loss_f32"]), 0.1)
        report = (SCRATCH / "report.html").read_text()
        self.assertGreaterEqual(report.count("<svg"), 2)
        self.assertNotIn("http://", report.replace("http://www.w3.org", ""))   # self-contained
        out = (SCRATCH / "quickstart.out").read_text()
        self.assertIn("rhetor serve", out)
        # Again: nothing is trained anew, and the weights stay.
        before = (folder / "model/model.safetensors").read_bytes() if (folder / "model").exists() else None
        start = time.time()
        rhetor("quickstart", small_text(), "--minutes", "0.3", "--runs", SCRATCH / "runs", "--report", SCRATCH / "again.html")
        self.assertLess(time.time() - start, 60)
        if before:
            self.assertEqual(before, (folder / "model/model.safetensors").read_bytes())

    def test_generate_folder_and_plan(self):
        folder = model()
        texts = []
        for source in (folder / "int8", folder / "model.plan"):
            out, _ = rhetor("generate", source, "Anna keeps the", "--seed", "5", "--max-tokens", "20", "--quiet")
            again, _ = rhetor("generate", source, "Anna keeps the", "--seed", "5", "--max-tokens", "20", "--quiet")
            self.assertEqual(out, again)
            texts.append(out)
        self.assertEqual(texts[0], texts[1])
        greedy, _ = rhetor("generate", folder / "model.plan", "Anna keeps the", "--temperature", "0", "--max-tokens", "24", "--quiet")
        self.assertRegex(greedy, r"lamp|boat|book|clock|kettle|map")

    def test_chat_in_the_terminal(self):
        out, _ = rhetor("chat", model() / "model.plan", "--max-tokens", "8", stdin=b"Hello\n/reset\nAgain\n\n")
        self.assertGreater(len(out.strip()), 0)

    def test_measuring_commands(self):
        folder = model()
        rhetor("eval", next(p for p in (folder / "model", folder) if (p / "config.json").exists()), "--data", small_text(), "--json", SCRATCH / "eval.json")
        result = json.loads((SCRATCH / "eval.json").read_text())
        self.assertAlmostEqual(result["perplexity"], 2.718281828 ** result["loss"], delta=0.01)
        rhetor("bench", "model", "--model", "bert-tiny", "--seq", "32", "--seconds", "0.2", "--json", SCRATCH / "bench.json")
        text = (SCRATCH / "bench.json").read_text()
        for key in ("latency_ms_p50", "throughput_per_s", "floor_ms", "memory_bytes"):
            self.assertIn(key, text)
        rhetor("bench", "generate", "--model", "llama-tiny", "--prompt", "16", "--tokens", "8", "--seconds", "0.2")
        rhetor("bench", "ops", "--filter", "layer_norm", "--seconds", "0.05")
        out, _ = rhetor("explain", "bert-tiny", "--html", SCRATCH / "explain.html")
        for word in ("fuse", "lower bound", "refused"):
            self.assertIn(word, out)
        self.assertIn("<svg", (SCRATCH / "explain.html").read_text())

    def test_c_example(self):
        program = PROGRAM.parent / "example_chat"
        out = subprocess.run([program, model() / "model.plan", "Hello"], capture_output=True, text=True, timeout=60)
        self.assertEqual(out.returncode, 0, out.stderr)
        out = subprocess.run([program, SCRATCH / "no-such-model", "Hello"], capture_output=True, text=True, timeout=60)
        self.assertEqual(out.returncode, 1)
        self.assertIn("no-such-model", out.stderr)


class BadInput(unittest.TestCase):
    def test_texts(self):
        def file(name, content):
            path = SCRATCH / name
            path.write_bytes(content)
            return path
        run = ("--minutes", "0.02", "--runs", SCRATCH / "bad-runs", "--report", SCRATCH / "bad.html")
        refused("quickstart", SCRATCH / "missing.txt", *run, says="missing.txt")
        refused("quickstart", SCRATCH, *run, says="folder")
        refused("quickstart", file("empty.txt", b""), *run, says="empty")
        refused("quickstart", file("binary.txt", bytes(range(256)) * 64), *run, says="binary|NUL")
        refused("quickstart", file("tiny.txt", b"too short"), *run, says="short|tokens|text")
        rhetor("quickstart", file("latin1.txt", small_text().read_bytes().replace(b"Clara", b"Cl\xe1ra")), *run)   # invalid UTF-8 is text

    def test_recipes(self):
        def recipe(content):
            path = SCRATCH / "recipe.toml"
            path.write_text(content)
            return path
        refused("train", SCRATCH / "none.toml", says="none.toml")
        refused("train", recipe("[train\n"), says="recipe.toml")
        refused("train", recipe("[train]\nlearning = 1\n"), says="learning")
        refused("train", recipe("[train]\nstepz = 1\n"), says="steps")
        refused("train", recipe("[train]\nsteps = \"many\"\n"), says="steps")
        refused("train", recipe("[model]\nlayers = -3\n"), says="layers")
        refused("train", recipe("[data]\nfiles = [\"gone.txt\"]\n"), says="gone.txt")

    def test_damaged_models(self):
        source = model() / "int8"
        plan = model() / "model.plan"
        generator = random.Random(1)
        for name in ("model.safetensors", "config.json", "tokenizer.json"):
            for damage in ("truncate", "flip", "empty", "missing"):
                broken = SCRATCH / "broken"
                shutil.rmtree(broken, ignore_errors=True)
                shutil.copytree(source, broken)
                data = bytearray((broken / name).read_bytes())
                if damage == "truncate":
                    (broken / name).write_bytes(data[:generator.randrange(1, len(data) - 1)])
                elif damage == "flip":
                    data[generator.randrange(16)] ^= 0x55   # the header: payload bits cannot be told from weights
                    (broken / name).write_bytes(data)
                elif damage == "empty":
                    (broken / name).write_bytes(b"")
                else:
                    (broken / name).unlink()
                with self.subTest(file=name, damage=damage):
                    refused("generate", broken, "x", "--max-tokens", "2", says=re.escape(name))
        for _ in range(12):
            data = bytearray(plan.read_bytes())
            if generator.random() < 0.5:
                data = data[:generator.randrange(len(data))]
            else:
                data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
            (SCRATCH / "broken.plan").write_bytes(data)
            refused("generate", SCRATCH / "broken.plan", "x", says="broken.plan")

    def test_prompts(self):
        plan = model() / "model.plan"
        refused("generate", plan, "word " * 4000, says="context")
        refused("generate", plan, "x", "--temperature", "-1", says="temperature")
        rhetor("generate", plan, "", "--max-tokens", "3")


class ServiceTest(unittest.TestCase):
    def test_api(self):
        with Service(model() / "model.plan") as service:
            status, health = service.json("/healthz")
            self.assertEqual((status, health["status"]), (200, "ok"))
            name = service.json("/v1/models")[1]["data"][0]["id"]
            status, reply = service.json("/v1/chat/completions", {"model": name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5})
            self.assertEqual((status, reply["object"], reply["choices"][0]["message"]["role"]), (200, "chat.completion", "assistant"))
            body = {"prompt": "Anna keeps the", "max_tokens": 12, "temperature": 0, "seed": 1}
            status, whole = service.json("/v1/completions", body)
            self.assertEqual(status, 200)
            status, headers, data = service.request("/v1/completions", {**body, "stream": True, "stream_options": {"include_usage": True}})
            self.assertTrue(headers["content-type"].startswith("text/event-stream"))
            events = [line[6:] for line in data.decode().split("\n\n") if line]
            self.assertEqual(events[-1], "[DONE]")
            parsed = [json.loads(event) for event in events[:-1]]
            self.assertEqual("".join(e["choices"][0]["text"] for e in parsed if e["choices"]), whole["choices"][0]["text"])
            self.assertEqual(parsed[-1]["usage"], whole["usage"])
            page = service.request("/")[2].decode()
            self.assertIn("<title>Rhetor</title>", page)
            self.assertNotIn("https://", page)

    def test_bad_requests(self):
        chat = "/v1/chat/completions"
        user = [{"role": "user", "content": "Hi"}]
        with Service(model() / "model.plan") as service:
            for body, word in [({}, "messages"), ({"messages": []}, "messages"), ({"messages": [{"role": "king", "content": "x"}]}, "king"),
                               ({"messages": [{"role": "user"}]}, "content"), ({"messages": user, "temperature": "hot"}, "temperature"),
                               ({"messages": user, "temperature": 9}, "temperature"), ({"messages": user, "max_tokens": 0}, "max_tokens"),
                               ({"messages": user, "n": 0}, "'n'"), ({"messages": user, "stop": [1]}, "stop"),
                               ({"messages": [{"role": "user", "content": "word " * 5000}]}, "context"), ([1], "object"),
                               ({"messages": [{"role": "user", "content": [{"type": 1}]}]}, "content"), ({"messages": user, "stream_options": 1}, "stream_options"),
                               ({"messages": user, "tools": [{"type": "function"}]}, "tools"), ({"messages": user, "logprobs": "yes"}, "logprobs"),
                               ({"messages": user, "response_format": {"type": "json_object"}}, "response_format"),
                               ({"messages": user, "presence_penalty": 9}, "presence_penalty")]:
                status, reply = service.json(chat, body)
                self.assertEqual(status, 400, (body, reply))
                self.assertIn(word, reply["error"]["message"])
            self.assertEqual(service.json(chat, {"model": "gpt-9", "messages": user})[0], 404)
            self.assertEqual(service.request(chat, raw=b"{not json")[0], 400)
            self.assertEqual(service.request(chat, raw=b"[" * 100000)[0], 400)
            self.assertEqual(service.request(chat, raw=b"{\"messages\": \"\xff\xfe\"}")[0], 400)
            self.assertEqual(service.request(chat, raw=b"x" * (2 << 20))[0], 413)
            self.assertEqual(service.request(chat)[0], 405)
            self.assertEqual(service.request("/nowhere")[0], 404)
            for raw in (b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 40000 + b" HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n"):
                with socket.create_connection(("127.0.0.1", service.port), 10) as s:
                    s.sendall(raw)
                    s.settimeout(10)
                    answer = s.recv(4096)
                    self.assertTrue(answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer)
            self.assertEqual(service.json("/healthz")[0], 200)   # still up
            refused("serve", model() / "model.plan", "--port", service.port, says=f"{service.port}")

    def test_a_conversation_outgrows_the_context(self):
        turns = [{"role": role, "content": f"Anna keeps the lamp in the harbour, {i}."} for i in range(300) for role in ("user", "assistant")]
        with Service(model() / "model.plan") as service:
            status, reply = service.json("/v1/chat/completions", {"messages": turns + [{"role": "user", "content": "Who?"}], "max_tokens": 5})
            self.assertEqual(status, 200, reply)
        long_talk = b"".join(b"Anna keeps the lamp in the harbour and walks to the market.\n" for _ in range(40))
        rhetor("chat", model() / "model.plan", "--max-tokens", "4", stdin=long_talk)

    def test_second_signal_breaks_off(self):
        with Service(model() / "model.plan", "--timeout", "600") as service:
            body = json.dumps({"prompt": "Anna", "max_tokens": 100000, "stream": True}).encode()
            clients = [socket.create_connection(("127.0.0.1", service.port), 10) for _ in range(8)]
            for s in clients:
                s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            clients[0].recv(100)
            for _ in range(3):   # at any moment of the stopping
                service.process.send_signal(signal.SIGINT)
                time.sleep(0.002)
            self.assertEqual(service.process.wait(10), 0)
            for s in clients:
                s.close()

    def test_dropped_client_frees_its_slot(self):
        with Service(model() / "model.plan", "--slots", "1") as service:
            body = json.dumps({"prompt": "Anna", "max_tokens": 100000, "stream": True, "temperature": 1}).encode()
            with socket.create_connection(("127.0.0.1", service.port), 10) as s:
                s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                s.recv(100)
            harness.wait_for(lambda: service.json("/healthz")[1]["running"] == 0)
            self.assertEqual(service.json("/v1/completions", {"prompt": "Anna", "max_tokens": 3})[0], 200)

    def test_overload_and_concurrency(self):
        with Service(model() / "model.plan", "--queue", "2", "--slots", "4") as service:
            body = {"prompt": "Anna keeps", "max_tokens": 200, "temperature": 1, "seed": 3}
            with concurrent.futures.ThreadPoolExecutor(16) as pool:
                replies = list(pool.map(lambda _: service.json("/v1/completions", body), range(16)))
            self.assertEqual({status for status, _ in replies} - {200, 429}, set())
            texts = {reply["choices"][0]["text"] for status, reply in replies if status == 200}
            self.assertEqual(len(texts), 1)   # same seed, same text, whoever runs beside it
        with Service(model() / "model.plan") as service:
            with concurrent.futures.ThreadPoolExecutor(32) as pool:
                def ask(i):
                    return service.json("/v1/completions", {"prompt": "Boris", "max_tokens": 10, "seed": i})
                replies = list(pool.map(ask, range(32)))
                self.assertEqual({status for status, _ in replies}, {200})
                for i in range(32):   # one by one: the same texts
                    self.assertEqual(ask(i)[1]["choices"], replies[i][1]["choices"])

    def test_curl(self):
        with Service(model() / "model.plan") as service:
            out = subprocess.run(["curl", "-sN", "--max-time", "30", service.url + "/v1/chat/completions", "-H", "content-type: application/json",
                                  "-d", json.dumps({"messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 6})],
                                 capture_output=True, text=True, check=True).stdout
            self.assertTrue(out.rstrip().endswith("data: [DONE]"), out)


class Survival(unittest.TestCase):
    RECIPE = """
[model]
layers = 2
hidden = 64
heads = 2
context = 64
vocab = 400
[data]
files = ["small.txt"]
[train]
steps = 600
batch = 4
[output]
folder = "{folder}"
checkpoint_every = 5
validate_every = 20
"""

    def recipe(self, folder):
        small_text()
        path = SCRATCH / f"{folder}.toml"
        path.write_text(self.RECIPE.format(folder=SCRATCH / folder))
        return path

    def weights(self, folder):
        found = sorted((SCRATCH / folder).rglob("model.safetensors"), key=lambda p: len(p.parts))
        return found[0].read_bytes()

    @slow
    def test_kill_at_any_moment_and_resume(self):
        rhetor("train", self.recipe("whole"), "--quiet")
        generator = random.Random(4)
        kills = 0
        for _ in range(60):
            process = subprocess.Popen([PROGRAM, "train", self.recipe("killed"), "--quiet"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=SCRATCH)
            try:
                process.wait(generator.uniform(0.1, 0.9))
                self.assertEqual(process.returncode, 0)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
        else:
            rhetor("train", self.recipe("killed"), "--quiet")
        self.assertGreater(kills, 2)
        self.assertEqual(self.weights("whole"), self.weights("killed"), f"after {kills} kills")

    def killed(self, generator, output, *words):
        """Starts a command and kills it: at a random moment, or some milliseconds after something of that name appears. True if it was not done yet."""
        def appeared():
            return any(p.name != output.name or not p.is_dir() or any(p.glob("*.tmp.*")) or (p / ".saved").exists()
                       for p in output.parent.glob(output.name + "*"))
        process = subprocess.Popen([PROGRAM, *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=SCRATCH)
        end = time.monotonic() + (generator.uniform(0.02, 1.0) if generator.random() < 0.4 else 60)
        while process.poll() is None and time.monotonic() < end and not appeared():
            time.sleep(0.0005)
        time.sleep(generator.choice([0, 0.001, 0.01, 0.1]))
        process.kill()
        process.wait()
        return process.returncode != 0

    @slow
    def test_kill_while_tokenizing(self):
        place, text = SCRATCH / "kill-tokens", SCRATCH / "kill.txt"
        place.mkdir()
        text.write_text(small_text().read_text() * 200)
        def contents(folder):
            return {p.name: p.read_bytes() for p in folder.iterdir()}
        words = ["data", "tokenize", text, "--tokenizer", model(), "--shard-tokens", "300000"]
        rhetor(*words, "-o", SCRATCH / "whole-tokens")
        whole, generator, kills = contents(SCRATCH / "whole-tokens"), random.Random(5), 0
        recipe = self.recipe("from-tokens")
        for _ in range(8):
            kills += self.killed(generator, place / "tokens", *words, "-o", place / "tokens")
            if (place / "tokens").exists():
                self.assertEqual(contents(place / "tokens"), whole)
                shutil.rmtree(place / "tokens")
            else:
                refused("train", recipe, "--set", f"data.files={place / 'tokens'}", says="no file or folder .*kill-tokens/tokens'")
            for left in place.iterdir():
                refused("train", recipe, "--set", f"data.files={left}", says="tokens.tmp.*data tokenize")
        self.assertGreater(kills, 2)
        rhetor(*words, "-o", place / "tokens")
        self.assertEqual([p.name for p in place.iterdir()], ["tokens"])   # what was left is gone
        self.assertEqual(contents(place / "tokens"), whole)

    @slow
    def test_kill_while_training_a_tokenizer(self):
        place, text = SCRATCH / "kill-tokenizer", SCRATCH / "kill.txt"
        place.mkdir()
        text.write_text(small_text().read_text() * 200)
        generator, kills = random.Random(6), 0
        words = {kind: ["tokenizer", "train", text, "--kind", kind, "--vocab-size", "300", "-o"] for kind in ("byte-bpe", "wordpiece")}
        whole = {None}
        for kind, command in words.items():
            rhetor(*command, SCRATCH / f"{kind}.json")
            whole.add((SCRATCH / f"{kind}.json").read_bytes())
        output = place / "tokenizer.json"
        for i in range(8):   # the file of one kind is replaced by the other's
            kills += self.killed(generator, output, *list(words.values())[i % 2], output)
            self.assertIn(output.read_bytes() if output.exists() else None, whole)
            if i < 3:
                output.unlink(missing_ok=True)
        self.assertGreater(kills, 2)
        rhetor(*words["byte-bpe"], output)
        rhetor("tokenizer", "info", output)
        self.assertEqual([p.name for p in place.iterdir()], ["tokenizer.json"])

    @slow
    def test_kill_while_compressing(self):
        place = SCRATCH / "kill-compress"
        place.mkdir()
        output, generator, kills = place / "small", random.Random(7), 0
        source = next(p for p in (model() / "model", model()) if (p / "config.json").exists())
        words, whole = {}, {}
        for kind in ("--int8", "--int4"):
            words[kind] = ["compress", source, kind, "--text", small_text(), "-o"]
            rhetor(*words[kind], SCRATCH / f"whole{kind}")
            whole[kind] = (SCRATCH / f"whole{kind}" / "model.safetensors").read_bytes()
        for i in range(10):   # first into nothing, then over what another run wrote
            if i == 4:
                rhetor(*words["--int8"], output)
            kills += self.killed(generator, output, *words[("--int8", "--int4")[i % 2]], output)
            if i < 4 and not (output / "config.json").exists() and not (output / ".saved").exists():
                refused("generate", output, "x", says="kill-compress/small' (does not exist|is no model folder)")
            else:
                rhetor("generate", output, "Anna", "--max-tokens", "2")   # also ends what a kill cut short
                self.assertIn((output / "model.safetensors").read_bytes(), whole.values())
            if i < 4:
                shutil.rmtree(output, ignore_errors=True)
        self.assertGreater(kills, 2)
        rhetor(*words["--int8"], output)
        self.assertEqual((output / "model.safetensors").read_bytes(), whole["--int8"])
        self.assertFalse([p for p in place.rglob("*") if ".tmp." in p.name or p.name == ".saved"])

    @slow
    def test_sigterm_saves_and_stops(self):
        process = subprocess.Popen([PROGRAM, "train", self.recipe("term"), "--quiet", "--set", "train.steps=100000"], cwd=SCRATCH,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        harness.wait_for(lambda: any((SCRATCH / "term").rglob("step-*")), 60)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 0, err)
        self.assertIn(b"stopped", out)

    @slow
    def test_disk_full_while_saving(self):
        rhetor("train", self.recipe("full"), "--quiet", "--set", "train.steps=10")
        saved = self.weights("full")

        def limit():   # any file larger than this cannot be written: a full disk, as far as the program can tell
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        done = subprocess.run([PROGRAM, "train", self.recipe("full"), "--fresh", "--quiet", "--set", "train.steps=12"], capture_output=True, cwd=SCRATCH,
                              preexec_fn=limit, timeout=120, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, "cannot write|File too large|full")
        self.assertEqual(saved, self.weights("full"), "the old model must survive")
        self.assertFalse(list((SCRATCH / "full").rglob("*.tmp.*")))


if __name__ == "__main__":
    sys.argv = [word for word in sys.argv if word != "--quick"]
    if not PROGRAM.exists():
        sys.exit(f"{PROGRAM} does not exist; build it first (./run or ./test)")
    os.chdir(ROOT)
    try:
        unittest.main(verbosity=2)
    finally:
        harness.clean_up()
