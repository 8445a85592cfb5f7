"""The server against direct ``generate``, and its ways of batching against one another, over HTTP in one run.

Overhead: eight equal prompts, the same number of tokens for all, asked at once; the time to the last answer over the
time of ``model.generate`` on the same padded batch (interleaved, median of the ratios). Bar: at most 1.05.

Batching: the same requests with log-normal answer lengths, all asked at once (saturation), answered first come first
served, in 2, 4 and 8 equal-mass bins of their known lengths, and by the continuous batching of transformers. The
clients are another process. Bar: 4 bins are faster than first come, first served.

    python benchmarks/bench_serving.py [--model random|smollm2-135m] [--requests 384] [--repeats 1] [--threads 1]
"""

import argparse
import asyncio
import json
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

import numpy as np
import torch
import uvicorn
from tokenizers import Tokenizer, decoders, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from superpose.inference import MultiBinScheduler, quantile_edges
from superpose.models import LoadedModel, load
from superpose.serving import BatchDecoder, BatchEngine, Codec, ContinuousEngine, Engine, ServerSettings, create_app

BATCH, PROMPT = 8, 16
MEDIAN, SIGMA, SHORTEST, LONGEST = 40, 0.5, 4, 160
OVERHEAD_BAR = 1.05


def random_llama() -> LoadedModel:
    """Width 256, 4 layers, 2000 tokens, random weights: the costs of a model, not its answers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2000,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=0,
    )
    inner = Tokenizer(models.WordLevel({f"w{i}": i for i in range(2000)}, unk_token="w1"))
    inner.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="w0", pad_token="w0")
    return LoadedModel(LlamaForCausalLM(config).eval(), tokenizer, "random", "", "")


async def _ask(port: int, body: dict) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    answer = await reader.read(-1)
    writer.close()
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(answer[:500].decode())
    return time.monotonic()


def ask_all(port: int, bodies: list[dict]) -> float:
    """Send all requests at once; return the seconds until the last answer. Runs in the clients' process."""

    async def run() -> float:
        start = time.monotonic()
        ends = await asyncio.gather(*(_ask(port, body) for body in bodies))
        return max(ends) - start

    return asyncio.run(run())


@contextmanager
def served(engine: Engine) -> Iterator[int]:
    app = create_app(engine, ServerSettings(names=("m",), timeout=3600))
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="warning", access_log=False, lifespan="on", backlog=2048)
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def bodies(prompts: np.ndarray, lengths: np.ndarray, *, stream: bool = False) -> list[dict]:
    return [
        {
            "model": "m",
            "prompt": prompt.tolist(),
            "max_tokens": int(length),
            "temperature": 0,
            "ignore_eos": True,
            "stream": stream,
        }
        for prompt, length in zip(prompts, lengths, strict=True)
    ]


def batch_engine(loaded: LoadedModel, edges: np.ndarray | None, queue: int) -> BatchEngine:
    decoder = BatchDecoder(loaded.model, Codec(loaded.tokenizer))
    return BatchEngine(decoder, MultiBinScheduler(edges, BATCH, 0.05), queue=queue)


def overhead(
    loaded: LoadedModel, prompts: np.ndarray, tokens: int, repeats: int, clients: ProcessPoolExecutor
) -> float:
    ids = torch.tensor(prompts[:BATCH])
    lengths = np.full(BATCH, tokens)

    def direct() -> float:
        start = time.monotonic()
        loaded.model.generate(
            ids, attention_mask=torch.ones_like(ids), min_new_tokens=tokens, max_new_tokens=tokens, do_sample=False
        )
        return time.monotonic() - start

    with served(batch_engine(loaded, None, 64)) as port:

        def asked(stream: bool) -> float:
            return clients.submit(ask_all, port, bodies(prompts[:BATCH], lengths, stream=stream)).result()

        times = {"generate": [], "whole": [], "streamed": []}
        direct(), asked(False)
        for _ in range(repeats):
            times["generate"].append(direct())
            times["whole"].append(asked(False))
            times["streamed"].append(asked(True))
    print(f"batch of {BATCH}, {tokens} tokens each; seconds (median of {repeats})")
    ratios = {}
    for name, each in times.items():
        ratios[name] = statistics.median(a / b for a, b in zip(each, times["generate"], strict=True))
        print(f"  {name:9} {statistics.median(each):7.3f}   ratio to generate {ratios[name]:.3f}")
    return ratios["whole"]


def batching(
    loaded: LoadedModel, prompts: np.ndarray, lengths: np.ndarray, repeats: int, clients: ProcessPoolExecutor
) -> dict[str, float]:
    queue = len(lengths)
    codec = Codec(loaded.tokenizer)
    arms = {
        "fcfs": lambda: batch_engine(loaded, None, queue),
        **{f"{k} bins": lambda k=k: batch_engine(loaded, quantile_edges(lengths, k), queue) for k in (2, 4, 8)},
        "continuous": lambda: ContinuousEngine(loaded.model, codec, max_batch=BATCH, queue=queue, greedy=True),
    }
    asked = bodies(prompts, lengths)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(repeats):
        for name, make in arms.items():
            with served(make()) as port:
                seconds[name].append(clients.submit(ask_all, port, asked).result())
    tokens = int(lengths.sum())
    print(f"{len(lengths)} requests at once, {tokens} tokens; B = {BATCH} (median of {repeats})")
    ratios = {}
    for name, each in seconds.items():
        median = statistics.median(each)
        ratios[name] = statistics.median(a / b for a, b in zip(seconds["fcfs"], each, strict=True))
        rate = f"{len(lengths) / median:6.1f} requests/s  {tokens / median:7.0f} tokens/s"
        print(f"  {name:10} {median:7.2f} s  {rate}   throughput over fcfs {ratios[name]:.2f}")
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="random")
    parser.add_argument("--requests", type=int, default=384)
    parser.add_argument("--tokens", type=int, default=128, help="of each answer, for the overhead")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--overhead-repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    loaded = random_llama() if options.model == "random" else load(options.model)
    draws = np.random.default_rng(0)
    prompts = draws.integers(10, 2000, (options.requests, PROMPT))
    lengths = np.clip(np.round(draws.lognormal(np.log(MEDIAN), SIGMA, options.requests)), SHORTEST, LONGEST).astype(int)
    print(f"model {loaded.name}, {options.threads} thread(s), prompts of {PROMPT} tokens")
    missed = []
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as clients:
        ratio = overhead(loaded, prompts, options.tokens, options.overhead_repeats, clients)
        if ratio > OVERHEAD_BAR:
            missed.append(f"overhead {ratio:.3f} (bar {OVERHEAD_BAR})")
        ratios = batching(loaded, prompts, lengths, options.repeats, clients)
        if ratios["4 bins"] <= 1:
            missed.append(f"4 bins {ratios['4 bins']:.2f} (bar: above 1)")
    if missed:
        raise SystemExit(f"below the bar: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
