"""Many clients at once: none is lost, none is answered twice, none gets another's answer; and SIGTERM in between."""

import asyncio
import collections
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

import openai
import pytest
import torch

from serving_tools import running, tiny_engine
from superpose.serving import Codec, Done, ServerSettings
from tiny import tiny_llama_dir

CLIENTS = 64


class Reverser:
    """Says every prompt backwards, one character at a time where that is asked for; counts what it answers."""

    def __init__(self, loaded):
        self.codec, self.context, self.vocabulary = Codec(loaded.tokenizer), 256, 121
        self.answered = collections.Counter()

    def run(self, jobs):
        for job in jobs:
            text = self.codec.decode(job.prompt)[::-1]
            if job.stream:
                for character in text:
                    job.delta(character)
            if job.finish(Done("" if job.stream else text, "stop", len(text))):
                self.answered[text] += 1


def from_many_clients(server, work, count, clients=CLIENTS):
    """Run ``work(client, i)`` for every i, from so many clients at once; return the results in order."""

    async def all_of_them():
        numbers = iter(range(count))
        results = [None] * count

        async def one_client():
            async with openai.AsyncOpenAI(
                base_url=f"{server.url}/v1", api_key="x", max_retries=0, timeout=60
            ) as client:
                for i in numbers:
                    results[i] = await work(client, i)

        await asyncio.gather(*(one_client() for _ in range(clients)))
        return results

    return asyncio.run(all_of_them())


@pytest.mark.timeout(60)
def test_a_thousand_requests_from_64_clients_each_get_their_own_answer_once(loaded):
    reverser = Reverser(loaded)

    async def ask(client, i):
        asked = {"model": "tiny", "prompt": f"request {i}", "max_tokens": 1 + i % 100}
        if i % 3:
            return (await client.completions.create(**asked)).choices[0].text
        stream = await client.completions.create(**asked, stream=True)
        return "".join([chunk.choices[0].text async for chunk in stream])

    with running(tiny_engine(runner=reverser, edges=[1, 25, 50, 75, 101], queue=CLIENTS)) as server:
        texts = from_many_clients(server, ask, 1000)
        # A refusal for a full queue would have raised; 64 clients never have more than 64 requests.
        assert server.metric("requests_total", endpoint="/v1/completions", status="200") == 1000
        assert server.engine.state().waiting == server.engine.state().running == 0
        assert server.metric("abandoned_requests_total") == 0
    expected = [f"request {i}"[::-1] for i in range(1000)]
    assert texts == expected
    assert reverser.answered == collections.Counter(expected)


def test_a_real_model_under_load_answers_as_it_does_alone(server, loaded):
    draws = random.Random(0)
    prompts = ["".join(draws.choices("abcdefgh ", k=draws.randrange(1, 40))) for _ in range(96)]
    limits = [draws.randrange(1, 24) for _ in prompts]

    async def ask(client, i):
        asked = {"model": "tiny", "prompt": prompts[i], "max_tokens": limits[i], "temperature": 0}
        if i % 2:
            return (await client.completions.create(**asked)).choices[0].text
        return "".join([chunk.choices[0].text async for chunk in await client.completions.create(**asked, stream=True)])

    texts = from_many_clients(server, ask, len(prompts))
    for prompt, limit, text in zip(prompts, limits, texts, strict=True):
        ids = torch.tensor([loaded.tokenizer(prompt)["input_ids"]])
        new = loaded.model.generate(ids, max_new_tokens=limit, do_sample=False)[0, ids.shape[1] :]
        assert text == loaded.tokenizer.decode(new, skip_special_tokens=True)


def test_clients_that_leave_at_random_do_not_disturb_the_others(server):
    async def ask(client, i):
        asked = {"model": "tiny", "prompt": f"number {i % 8}", "max_tokens": 40, "temperature": 0}
        if i % 3 == 0:
            stream = await client.completions.create(**asked, stream=True)
            async for _ in stream:
                break
            await stream.close()
            return None
        if i % 3 == 1:
            task = asyncio.ensure_future(client.completions.create(**asked))
            await asyncio.sleep(0.002 * (i % 11))
            task.cancel()
            return None
        return (await client.completions.create(**asked)).choices[0].text

    texts = from_many_clients(server, ask, 120, clients=16)
    for kind in range(8):
        assert len({text for i, text in enumerate(texts) if i % 8 == kind and text is not None}) == 1
    end = time.monotonic() + 20
    while server.engine.state().running or server.engine.state().waiting:
        assert time.monotonic() < end, "a place was not freed"
        time.sleep(0.01)


def test_the_model_raising_fails_only_its_own_batch(loaded):
    reverser = Reverser(loaded)
    run = reverser.run

    def unlucky(jobs):
        if any("13" in reverser.codec.decode(job.prompt) for job in jobs):
            raise RuntimeError("no more memory")
        run(jobs)

    reverser.run = unlucky

    async def ask(client, i):
        try:
            return (await client.completions.create(model="tiny", prompt=f"request {i}")).choices[0].text
        except openai.InternalServerError as error:
            return error.body["message"]

    with running(tiny_engine(runner=reverser, batch=4)) as server:
        texts = from_many_clients(server, ask, 60, clients=8)
        failed = [
            i
            for i, text in enumerate(texts)
            if text == "the model failed on this request: RuntimeError: no more memory"
        ]
        assert 13 in failed
        assert len(failed) <= 4
        assert all(text == f"request {i}"[::-1] for i, text in enumerate(texts) if i not in failed)


def start(folder, *options):
    """Start ``superpose serve`` on a tiny model; return the process and its address."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from superpose.cli import main; main()", "serve", str(folder), "--port", "0", *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    seen = []
    assert process.stderr is not None
    for line in process.stderr:
        seen.append(line)
        found = re.search(r"http://[\d.:]+", line)
        if found:
            return process, found[0]
    raise AssertionError("".join(seen))


@pytest.mark.timeout(120)
def test_sigterm_under_load_answers_what_was_accepted_and_exits_0(tmp_path):
    folder = tiny_llama_dir(tmp_path / "tiny")
    process, url = start(
        folder, "--batching", "multi-bin", "--bins", "20,60", "--max-wait", "60000", "--max-batch", "4"
    )
    outcomes = []
    accepted = threading.Semaphore(0)

    def client(i):
        with openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0, timeout=60) as mine:
            try:
                stream = mine.completions.create(
                    model="tiny",
                    prompt=f"client {i}",
                    max_tokens=[10, 50, 150][i % 3],
                    temperature=0,
                    stream=True,
                    extra_body={"ignore_eos": True},
                )
                accepted.release()
                chunks = list(stream)
                outcomes.append((i, chunks[-1].choices[0].finish_reason))
            except openai.APIError as error:
                outcomes.append((i, type(error).__name__))

    threads = [threading.Thread(target=client, args=(i,)) for i in range(22)]
    for thread in threads:
        thread.start()
    # Headers have come for all of them; some run, and some wait for a batch that nobody will fill.
    for _ in threads:
        assert accepted.acquire(timeout=60)
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(outcomes) == [(i, "length") for i in range(22)]
    assert process.wait(timeout=30) == 0
    assert "stopped" in process.stderr.read()
    with pytest.raises(openai.APIConnectionError):
        openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0, timeout=5).models.list()


def test_ctrl_c_exits_130(tmp_path):
    process, _ = start(tiny_llama_dir(tmp_path / "tiny"), "--plain-chat")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    process.stderr.close()


def test_shutting_down_is_told_to_clients_on_open_connections(loaded):
    with running(tiny_engine(loaded), ServerSettings(names=("tiny",), drain=5)) as server:
        server.engine.drain()
        with pytest.raises(openai.InternalServerError, match="shutting down") as refused:
            server.client().completions.create(model="tiny", prompt="x")
        assert refused.value.status_code == 503
        assert refused.value.response.headers["Retry-After"]
