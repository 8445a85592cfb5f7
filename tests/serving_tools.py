"""A server in this process, on a free port, and a tokenizer whose tokens are single bytes."""

import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import openai
import uvicorn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from superpose.inference import MultiBinScheduler
from superpose.models import LoadedModel
from superpose.serving import BatchDecoder, BatchEngine, Codec, ServerSettings, create_app
from tiny import tiny_model, tiny_tokenizer

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


class Running:
    """A server that answers, and how to reach it."""

    def __init__(self, engine, port):
        self.engine = engine
        self.url = f"http://127.0.0.1:{port}"

    def client(self, **options):
        return openai.OpenAI(
            base_url=f"{self.url}/v1", **{"api_key": "none", "max_retries": 0, "timeout": 30, **options}
        )

    def metric(self, name, **labels):
        return self.engine.metrics.registry.get_sample_value(f"superpose_{name}", labels) or 0.0


@contextmanager
def running(engine, settings: ServerSettings | None = None) -> Iterator[Running]:
    app = create_app(engine, settings or ServerSettings(names=("tiny",), drain=5))
    config = uvicorn.Config(app, port=0, log_level="warning", access_log=False, lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        threading.Event().wait(0.005)
    try:
        yield Running(engine, server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive(), "the server did not stop"


def byte_tokenizer(end: str = "<end>") -> PreTrainedTokenizerFast:
    """One token per byte, in the order of the bytes, and an end token: token 256."""
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    # GPT-2's table: printable bytes stand for themselves, the others for characters from 256 on.
    shown = [chr(b) for b in range(256) if chr(b) in alphabet]
    rest = sorted(alphabet - set(shown))
    names = {}
    for b in range(256):
        names[chr(b) if chr(b) in shown else rest.pop(0)] = b
    inner = Tokenizer(models.BPE(vocab={**names, end: 256}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=end, pad_token=end)


def tiny_loaded(*, template: str | None = TEMPLATE, **overrides) -> LoadedModel:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return LoadedModel(tiny_model("llama", **overrides), tokenizer, "tiny", "", "fingerprint")


def tiny_engine(loaded=None, *, edges=None, batch=8, max_wait=0.01, runner=None, **options) -> BatchEngine:
    if runner is None:
        loaded = loaded or tiny_loaded()
        runner = BatchDecoder(loaded.model, Codec(loaded.tokenizer))
    return BatchEngine(runner, MultiBinScheduler(edges, batch, max_wait), **options)


def post(server, path, body, headers=None, method="POST"):
    """Send bytes, or an object as JSON; return the status, headers and document."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.loads(error.read())


def get(server, path):
    with urllib.request.urlopen(server.url + path, timeout=30) as answer:
        return answer.read().decode()
