"An API for a folder of adapters: asked by OpenAI's client, by many, and to do harm."

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest
import torch
from served import QUESTIONS, Listener, ask_all, write_adapters

from tinyforge import RealTrainer, TrainingConfig, load_base, read_adapter
from tinyforge.errors import AdapterError, ConfigError
from tinyforge.generation.answering import answer
from tinyforge.generation.prompts import Question, prompt_ids
from tinyforge.models.loading import LoadedBase, load_tokenizer
from tinyforge.models.tasks import CAUSAL
from tinyforge.serving.answers import Manner
from tinyforge.serving.engine import Engine, Job
from tinyforge.serving.server import ServerSettings, serve
from tinyforge.serving.watching import base_of_folder


@contextlib.contextmanager
def serving(folder, *options, **variables):
    "A server in a process of its own: its address, and what it has logged."
    log = Path(folder).parent / f"log-{random.random()}"
    command = [sys.executable, "-m", "tinyforge", "serve", str(folder), "--port", "0"]
    with log.open("w") as told:
        process = subprocess.Popen(
            [*command, "--verbose", *options],
            stdout=told,
            stderr=told,
            env={**os.environ, **variables},
        )
    try:
        until = time.monotonic() + 120
        while not (found := re.search(r"http://[\d.]+:\d+", log.read_text())):
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        yield SimpleNamespace(at=found[0], process=process, log=log)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "adapters"
    write_adapters(folder, ["a", "b", "c", "größe 日本"], load_base())
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder) as server:
        yield server


@pytest.fixture(scope="module")
def expected(folder):
    "What `generate` answers: (name, question) -> text."
    trainer = RealTrainer(TrainingConfig())
    found = {}
    for name in ("a", "b", "c", None):
        if name:
            trainer.load_lora(folder / name, name)
        else:
            trainer.active = None
        for question in QUESTIONS:
            key = name or "tinyforge-base", question
            found[key] = trainer.generate(question, max_new_tokens=24)
    assert len(set(found.values())) > 15  # or a mixture would not be seen
    return found


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=f"{server.at}/v1", api_key="none", max_retries=0)


def chat(question):
    return [{"role": "user", "content": question}]


def ask(client, model, question, **more):
    options = {"max_tokens": 24, **more}
    return client.chat.completions.create(model=model, messages=chat(question), **options)


def health(server):
    with urllib.request.urlopen(f"{server.at}/health") as answer:
        return json.load(answer)


def idle(server):
    until = time.monotonic() + 20
    while (found := health(server))["running"] or found["waiting"]:
        assert time.monotonic() < until, found
        time.sleep(0.05)


def test_the_client_of_openai(client, expected):
    names = [model.id for model in client.models.list()]
    assert names == ["tinyforge-base", "a", "b", "c", "größe 日本"]
    assert client.models.retrieve("größe 日本").id == "größe 日本"
    for name, question in expected:
        said = ask(client, name, question)
        assert said.choices[0].message.content == expected[name, question]
        assert said.model == name and said.object == "chat.completion"
        assert said.choices[0].finish_reason in ("stop", "length")
        usage = said.usage
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        assert 0 < usage.completion_tokens <= 24


def test_streams(client, expected):
    for name in ("a", "tinyforge-base"):
        options = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = list(ask(client, name, QUESTIONS[0], **options))
        *pieces, last = chunks
        said = "".join(c.choices[0].delta.content or "" for c in pieces)
        assert said == expected[name, QUESTIONS[0]]
        assert pieces[0].choices[0].delta.role == "assistant"
        assert pieces[-1].choices[0].finish_reason and not last.choices
        assert last.usage.completion_tokens <= 24


def test_completions(client):
    options = {"model": "a", "prompt": ["Once upon", "The"], "max_tokens": 6}
    both = client.completions.create(**options).choices
    assert [choice.index for choice in both] == [0, 1]
    one = client.completions.create(**{**options, "prompt": "The"}).choices[0]
    assert one.text == both[1].text and one.finish_reason == "length"
    pieces = client.completions.create(**{**options, "prompt": "The"}, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == one.text


def test_drawing(client):
    "The same seed, the same answers, whoever is asked beside."
    options = {"temperature": 1.5, "top_p": 0.9, "seed": 3}
    three = [c.message.content for c in ask(client, "a", QUESTIONS[1], n=3, **options).choices]
    again = [c.message.content for c in ask(client, "a", QUESTIONS[1], n=3, **options).choices]
    assert three == again and len(set(three)) > 1
    assert ask(client, "a", QUESTIONS[1], **options).choices[0].message.content == three[0]


def test_stop_strings(client, expected):
    whole = expected["b", QUESTIONS[0]]
    stop = whole[8:11]
    said = ask(client, "b", QUESTIONS[0], stop=[stop, "never there"]).choices[0]
    assert said.message.content == whole[: whole.index(stop)] and said.finish_reason == "stop"
    pieces = list(ask(client, "b", QUESTIONS[0], stop=stop, stream=True))
    assert "".join(p.choices[0].delta.content or "" for p in pieces) == said.message.content


def test_many_at_once(server, expected):
    "120 requests, some of them streams, over all adapters: each gets its own answer."
    async def one(client, key, stream):
        options = {"model": key[0], "messages": chat(key[1]), "max_tokens": 24}
        if not stream:
            said = await client.chat.completions.create(**options)
            return said.choices[0].message.content
        pieces = await client.chat.completions.create(**options, stream=True)
        return "".join([p.choices[0].delta.content or "" async for p in pieces])

    async def all_of_them(keys):
        options = {"api_key": "none", "max_retries": 0}
        async with openai.AsyncOpenAI(base_url=f"{server.at}/v1", **options) as client:
            calls = (one(client, key, i % 3 == 0) for i, key in enumerate(keys))
            return await asyncio.gather(*calls)

    keys = random.Random(0).choices(list(expected), k=120)
    found = asyncio.run(all_of_them(keys))
    assert found == [expected[key] for key in keys]


def raw(server, path, body=None, method=None, **headers):
    "Status and text of an answer."
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"{server.at}{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


@pytest.mark.parametrize(
    "name",
    ["../a", "a/../b", "/etc/passwd", "..", ".", "", "a\0", "a\n", "A", "x/a", "\u202ea"],
)
def test_names_lead_nowhere(server, name):
    status, text = raw(server, "/v1/chat/completions", {"model": name, "messages": chat("Hi")})
    assert status in (400, 404) and "served" not in text and "Traceback" not in text
    quoted = urllib.parse.quote(name, safe="")
    status, text = raw(server, f"/v1/models/{quoted}")
    assert status in (404, 307) or not name


PATHS = ["/..%2f..%2fetc/passwd", "/%2e%2e/a", "//etc/passwd", "/docs"]


@pytest.mark.parametrize("path", PATHS)
def test_paths_lead_nowhere(server, path):
    assert raw(server, path)[0] == 404


def test_bodies_that_are_none(server):
    good = {"model": "a", "messages": chat("Hi"), "max_tokens": 2}
    for body in (b"", b"{", b"[]", b"\xff\xfe", b"[" * 200_000, b"9" * 9000, b'{"model": 1}'):
        status, text = raw(server, "/v1/chat/completions", body)
        assert status == 400 and json.loads(text)["error"]["type"] == "invalid_request_error"
    giant = json.dumps({**good, "messages": chat("x" * (2 << 20))}).encode()
    assert raw(server, "/v1/chat/completions", giant)[0] == 413
    for more in ({"messages": chat("x " * 4000)}, {"max_tokens": 10**6}, {"n": 99}):
        assert raw(server, "/v1/chat/completions", {**good, **more})[0] == 400
    assert raw(server, "/v1/chat/completions", good)[0] == 200


def test_a_refusal_comes_while_the_body_is_still_sent(server):
    "The reason is there at once, and the connection stays until the body has been sent."
    host, _, port = server.at.removeprefix("http://").rpartition(":")
    start = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Content-Length: 20000000\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=30) as sending:
        sending.sendall(start)
        said = b""
        while not said.endswith(b"}}"):
            said += sending.recv(1 << 16)
        assert said.startswith(b"HTTP/1.1 413 ")
        for _ in range(200):
            sending.sendall(b"x" * 100_000)
        assert not sending.recv(1)  # ended in good order: no reset
    with socket.create_connection((host, int(port)), timeout=30) as idle:
        begun = time.monotonic()
        idle.sendall(start)
        while idle.recv(1 << 16):
            pass
        assert 1 < time.monotonic() - begun < 20  # nobody keeps a connection for nothing


def test_odd_types(server):
    odd = [True, -1, 1e300, "x", "", [], [[]], {}, {"a": 1}, "\u0000", "ß" * 500]
    fields = "messages max_tokens temperature top_p n stop stream seed stream_options tools"
    for field in (*fields.split(), "logit_bias", "user", "response_format", "nothing"):
        for value in odd:
            body = {"model": "a", "messages": chat("Hi"), "max_tokens": 1, field: value}
            status, text = raw(server, "/v1/chat/completions", body)
            assert status in (200, 400), (field, value, status, text)
    messages = [
        [{"role": "user"}],
        [{"content": "x"}],
        [{"role": 5, "content": "x"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a:/"}}]}],
        [{"role": "user", "content": {"a": 1}}],
        [{"role": "user", "content": "x", "tool_calls": [1]}],
        [None],
    ]
    for value in messages:
        status, text = raw(server, "/v1/chat/completions", {"model": "a", "messages": value})
        assert status == 400 and "Traceback" not in text


class Connection(socket.socket):
    "A socket that can hold what was read of it."

    begun = b""


def connected(server, text):
    host, port = server.at.removeprefix("http://").split(":")
    found = Connection()
    found.settimeout(30)
    found.connect((host, int(port)))
    found.sendall(text.encode())
    return found


def started_stream(server, tokens=500, question="Hello", model="a"):
    "A connection on which an answer is being written, after its first pieces."
    body = {"model": model, "messages": chat(question), "stream": True, "max_tokens": tokens}
    text = json.dumps({**body, "temperature": 5})
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    found = connected(server, f"{head}Content-Length: {len(text)}\r\n\r\n{text}")
    found.begun = found.recv(4096)
    assert b"200 OK" in found.begun, found.begun
    return found


def rest_of(stream):
    "What comes until the other side ends it."
    text = stream.begun
    while b"[DONE]" not in text and (piece := stream.recv(65536)):
        text += piece
    return text


def test_a_client_that_goes_away_frees_its_place(server):
    idle(server)
    for _ in range(3):
        streams = [started_stream(server, 900) for _ in range(4)]
        found = health(server)
        assert found["running"] + found["waiting"] > 0
        for stream in streams:
            stream.close()
        start = time.monotonic()
        idle(server)
        assert time.monotonic() - start < 10  # a token or two, on a busy machine


def test_slow_and_broken_connections(server, client):
    "They hold a connection each, and nobody waits for them."
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX"
    slow = [connected(server, head) for _ in "ab"]
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{"
    slow += [connected(server, head) for _ in "ab"]
    deaf = [started_stream(server, 300) for _ in "ab"]  # nobody reads what comes
    assert ask(client, "a", "Hi", max_tokens=3).usage.completion_tokens <= 3
    for text in ("GET / HTTP/9\r\n\r\n", "\0\1\2\r\n\r\n", "GET /" + "x" * 100_000):
        with contextlib.suppress(OSError):
            bad = connected(server, text)
            bad.recv(4096)
            bad.close()
    assert ask(client, "b", "Hi", max_tokens=3).choices
    for connection in (*slow, *deaf):
        connection.close()
    idle(server)


def test_other_names_of_this_machine(server):
    assert raw(server, "/v1/models", Host="evil.example")[0] == 403
    assert raw(server, "/v1/models", Host="localhost:1")[0] == 200


def test_nothing_of_a_request_is_kept(server, client):
    "Not in the log, the health, the figures, nor in an error of somebody else."
    secret = "the-secret-of-4711"
    ask(client, "a", secret, max_tokens=3)
    raw(server, "/v1/chat/completions", {"model": secret, "messages": chat(secret)})
    raw(server, "/v1/chat/completions", {"model": "a", "messages": chat(secret), "n": secret})
    kept = [server.log.read_text(), *(raw(server, p)[1] for p in ("/metrics", "/health"))]
    assert not any(secret in text for text in kept)
    assert "a: 200" in kept[0] and 'model="a",status="200"' in kept[1]


def test_keys_and_an_open_address(folder, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("key-of-the-shop-0001\nkey-of-the-shop-0002\n")
    keys.chmod(0o600)
    command = [sys.executable, "-m", "tinyforge", "serve", str(folder)]
    refused = subprocess.run(
        [*command, "--host", "0.0.0.0"],
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 1 and "--without-key" in refused.stderr
    with serving(folder, "--api-keys", str(keys), "--host", "0.0.0.0") as server:
        taken = subprocess.run(
            [*command, "--port", server.at.rpartition(":")[2]],
            capture_output=True,
            text=True,
        )
        assert taken.returncode == 1
        assert "another program listens there" in taken.stderr
        for key, right in (("key-of-the-shop-0002", True), ("key-of-the-shop-0003", False)):
            client = openai.OpenAI(base_url=f"{server.at}/v1", api_key=key, max_retries=0)
            if right:
                assert ask(client, "a", "Hi", max_tokens=2).choices
            else:
                with pytest.raises(openai.AuthenticationError):
                    client.models.list()
        assert raw(server, "/v1/models")[0] == raw(server, "/metrics")[0] == 401
        assert raw(server, "/health")[0] == 200
        text = raw(server, "/v1/chat/completions", b"x" * (2 << 20))
        assert text[0] == 401  # before anything is read


def test_the_folder_changes(folder, tmp_path):
    "A new adapter answers within a second; one that is taken away ends what it began."
    import shutil

    own = tmp_path / "adapters"
    shutil.copytree(folder / "a", own / "a")
    with serving(own) as server:
        client = openai.OpenAI(base_url=f"{server.at}/v1", api_key="none", max_retries=0)
        shutil.copytree(folder / "b", tmp_path / "b")
        start = time.monotonic()
        (tmp_path / "b").rename(own / "new")
        while "new" not in [model.id for model in client.models.list()]:
            assert time.monotonic() - start < 5
            time.sleep(0.02)
        assert time.monotonic() - start < 4  # a second, and a busy machine
        stream = started_stream(server, 200, model="new")
        shutil.rmtree(own / "new")
        with pytest.raises(openai.NotFoundError):
            for _ in range(100):
                ask(client, "new", "Hi", max_tokens=1)
                time.sleep(0.05)
        text = rest_of(stream)
        assert b"[DONE]" in text and b'"error":' not in text


def test_a_signal_while_it_writes(folder):
    "What is under way ends; nothing new is taken; the process ends well."
    with serving(folder, "--grace", "20") as server:
        streams = [started_stream(server, 150) for _ in range(3)]
        server.process.send_signal(signal.SIGTERM)
        for stream in streams:
            text = rest_of(stream)
            assert b"[DONE]" in text and b'"error":' not in text
        assert server.process.wait(30) == 0
        assert "Traceback" not in server.log.read_text()


def test_no_grace_for_what_is_too_long(folder):
    with serving(folder, "--grace", "0.2") as server:
        stream = started_stream(server, 990)
        server.process.send_signal(signal.SIGTERM)
        text = rest_of(stream)
        assert b"the server is stopping" in text or b"[DONE]" in text
        assert server.process.wait(30) == 0


def families():
    "Small models with random weights, and whether their rows are joined."
    from transformers import (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        GPT2Config,
        GPT2LMHeadModel,
        GPTNeoXConfig,
        GPTNeoXForCausalLM,
        MambaConfig,
        MambaForCausalLM,
        MistralConfig,
        MistralForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    size = {"vocab_size": 3072, "hidden_size": 64, "num_hidden_layers": 3}
    heads = {**size, "num_attention_heads": 4, "pad_token_id": 0, "intermediate_size": 96}
    plain = {**heads, "num_key_value_heads": 2, "head_dim": 16}
    kinds = ["sliding_attention", "sliding_attention", "full_attention"]
    return {
        "qwen": (Qwen3ForCausalLM, Qwen3Config(**plain), True),
        "mistral": (MistralForCausalLM, MistralConfig(**plain, sliding_window=12), True),
        "gemma": (
            Gemma3ForCausalLM,
            Gemma3TextConfig(**plain, sliding_window=12, layer_types=kinds),
            True,
        ),
        "neox": (GPTNeoXForCausalLM, GPTNeoXConfig(**heads), True),
        "gpt2": (
            GPT2LMHeadModel,
            GPT2Config(vocab_size=3072, n_embd=64, n_layer=2, n_head=4),
            True,
        ),
        "mamba": (MambaForCausalLM, MambaConfig(**size), False),
    }


@pytest.mark.parametrize("name", ["qwen", "mistral", "gemma", "neox", "gpt2", "mamba"])
def test_families(name):
    "Rows that come and go are answered as each alone by `generate`, windows and all."
    kind, config, joined = families()[name]
    torch.manual_seed(0)
    model = kind(config).eval()
    for parameter in model.parameters():
        parameter.data *= 2  # or a random model says the same word for ever
    loaded = LoadedBase("tiny", model, load_tokenizer(), CAUSAL)
    engine = Engine(loaded, most_rows=5)
    assert bool(engine.alone) != joined
    draw = random.Random(1)
    prompts = [QUESTIONS[i % 5] * draw.randint(1, 3) for i in range(14)]
    ids = [prompt_ids(loaded, prompt, engine.base.voice) for prompt in prompts]
    most = [draw.randint(2, 30) for _ in prompts]
    questions = [Question(i, engine.base.voice) for i in ids]
    listener = Listener()
    for number, question in enumerate(questions):
        tell = listener.teller(number)
        engine.submit(Job(question, Manner(most[number]), tell, number % 2 == 0))
        time.sleep(0.003)
    found = listener.wait(len(questions), 60)
    engine.close(1)
    with torch.no_grad():
        for number, question in enumerate(questions):
            alone = answer(model, loaded, [question], {"max_new_tokens": most[number]})[0]
            assert found[number].whole == alone, (name, number)


@pytest.mark.flag("slow")
def test_a_hundred_adapters_and_a_thousand_requests(tmp_path):
    "None lost, none mixed up: each answer is the one of `generate`, asked alone."
    names = [f"adapter-{i:03}" for i in range(100)]
    write_adapters(tmp_path, names, load_base())
    engine = Engine(LoadedBase.load(), most_waiting=1000)
    live = {name: engine.add(read_adapter(tmp_path / name), name) for name in names}
    draw = random.Random(0)
    keys = [(draw.choice(names), draw.choice(QUESTIONS)) for _ in range(1000)]
    most = [draw.randint(4, 32) for _ in keys]
    found, _ = ask_all(engine, live, keys, most)
    engine.close(1)
    assert len({piece.whole for piece in found}) > 300
    trainer = RealTrainer(TrainingConfig())
    known = {}
    for name in names:
        trainer.load_lora(tmp_path / name, name)
        for question in QUESTIONS:
            known[name, question] = trainer.tokenizer(
                trainer.generate(question, max_new_tokens=32), add_special_tokens=False
            )["input_ids"]
    wrong = 0
    for (name, question), piece, n in zip(keys, found, most):
        trainer.active = name
        whole = trainer.tokenizer.decode(known[name, question])
        if piece.end == "stop":
            wrong += piece.whole != whole
        else:
            wrong += not whole.startswith(piece.whole.rstrip("\ufffd")) and (
                trainer.generate(question, max_new_tokens=n) != piece.whole
            )
    assert wrong == 0


@pytest.mark.flag("slow")
def test_the_prompts_of_the_tutorial(tmp_path):
    "tinyforge demo && tinyforge serve: each question from its own adapter."
    from tinyforge.demo import PROMPTS, demo

    demo(tmp_path / "demo")
    trainer = RealTrainer(TrainingConfig())
    with serving(tmp_path / "demo") as server:
        client = openai.OpenAI(base_url=f"{server.at}/v1", api_key="none", max_retries=0)
        for name, prompt in PROMPTS.items():
            trainer.load_lora(tmp_path / "demo" / name, name)
            said = ask(client, name, prompt, max_tokens=128).choices[0].message.content
            assert said == trainer.generate(prompt) and len(said) > 20


@pytest.mark.flag("real")
def test_a_real_base(tmp_path):
    "SmolLM2-135M-Instruct with random adapters: token for token as `generate`."
    base = os.environ.get("TINYFORGE_REAL_MODEL", "")
    loaded = LoadedBase.load(base)
    write_adapters(tmp_path, ["a", "b", "c"], loaded.model, base, size=0.3)
    engine = Engine(loaded)
    assert not engine.alone
    live = {name: engine.add(read_adapter(tmp_path / name), name) for name in "abc"}
    live[None] = engine.base
    keys = [(name, question) for name in live for question in QUESTIONS]
    found, _ = ask_all(engine, live, keys, [20] * len(keys))
    engine.close(1)
    engine.store.close()
    trainer = RealTrainer(TrainingConfig(model_name=base))
    for (name, question), piece in zip(keys, found):
        if name:
            trainer.load_lora(tmp_path / name, name)
        else:
            trainer.active = None
        assert piece.whole == trainer.generate(question, max_new_tokens=20), (name, question)


@pytest.mark.flag("browser")
def test_the_page(server, folder):
    "Choose an adapter, ask, and see base and adapter side by side; on a phone too."
    from browser import chromium, page_in

    with chromium() as browser:
        for width in (1200, 390):
            with page_in(browser, server.at, viewport={"width": width, "height": 800}) as page:
                page.goto(server.at)
                page.wait_for_selector("#adapter option:nth-child(4)", state="attached")
                assert "4 adapters on tinyforge-base" in page.text_content("#state")
                page.select_option("#adapter", "b")
                page.fill("#most", "24")
                page.fill("#question", "<img src=x onerror=alert(1)> Hello")
                page.click("#ask")
                page.locator("section .about", has_text="tokens").nth(1).wait_for()
                heads = page.locator("section h2").all_text_contents()
                texts = page.locator("section pre").all_text_contents()
                assert heads == ["tinyforge-base", "b"] and all(texts) and len(set(texts)) == 2
                boxes = [box.bounding_box() for box in page.locator("section").all()]
                beside = boxes[0]["y"] == boxes[1]["y"]
                assert beside == (width > 600)
                assert page.locator("article img").count() == 0
                assert all(box["x"] + box["width"] <= width for box in boxes)
                page.route("**/completions", lambda route: None)  # no answer comes
                page.click("#ask")
                page.click("#stop")
                page.locator("section .about", has_text="stopped").first.wait_for()
                assert not page.errors
    idle(server)


def test_damaged_adapters_are_named(tmp_path):
    "A folder of which nothing can be read is refused for what is wrong with the first."
    model = load_base("tinyforge-base").model
    write_adapters(tmp_path, ["cut", "short"], model)
    for name in ("cut", "short"):
        weights = tmp_path / name / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ConfigError, match="no adapter in it can be read; .*cut: ") as e:
        base_of_folder(tmp_path)
    assert e.value.where == str(tmp_path) and e.value.do
    write_adapters(tmp_path, ["whole"], model)
    assert base_of_folder(tmp_path) == "tinyforge-base"


def test_a_missing_folder_is_said_before_a_busy_port():
    "What is wrong with the folder comes before what is wrong with the address."
    with socket.create_server(("127.0.0.1", 0)) as busy:
        settings = ServerSettings("nowhere", port=busy.getsockname()[1])
        with pytest.raises(AdapterError, match="there is no such folder"):
            serve(settings)
