"""Continuous batching through transformers: the same answers, one request at a time or many."""

import threading

import pytest
import torch

from serving_tools import running, tiny_loaded
from superpose.errors import InputError
from superpose.serving import Codec, ContinuousEngine, Delta, Failed, Job, Sampling, ServingError


def greedy(loaded, prompt, max_tokens):
    ids = torch.tensor([loaded.tokenizer(prompt)["input_ids"]])
    new = loaded.model.generate(ids, max_new_tokens=max_tokens, do_sample=False)[0, ids.shape[1] :]
    return loaded.tokenizer.decode(new, skip_special_tokens=True), len(new)


@pytest.fixture(scope="module")
def continuous():
    # The reference is made first: weights are drawn from the global generator, which the manager's thread uses too.
    reference, loaded = tiny_loaded(), tiny_loaded()
    with running(ContinuousEngine(loaded.model, Codec(loaded.tokenizer), max_batch=4, queue=40)) as server:
        yield server, reference


def test_answers_equal_generate_for_more_requests_than_rows(continuous):
    server, loaded = continuous
    prompts = [f"prompt {i}" * (1 + i % 3) for i in range(12)]
    texts: dict = {}

    def ask(i):
        client = server.client()
        asked = {"model": "tiny", "prompt": prompts[i], "max_tokens": 3 + i, "temperature": 0}
        if i % 2:
            texts[i] = "".join(chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True))
        else:
            answer = client.completions.create(**asked)
            texts[i] = answer.choices[0].text
            assert answer.usage.completion_tokens == greedy(loaded, prompts[i], 3 + i)[1]

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert texts == {i: greedy(loaded, prompts[i], 3 + i)[0] for i in range(12)}


def test_temperature_top_p_and_stop_are_honoured(continuous):
    server, loaded = continuous
    client = server.client()

    def text(**options):
        return client.completions.create(model="tiny", prompt="hello", max_tokens=20, **options).choices[0].text

    whole = greedy(loaded, "hello", 20)[0]
    assert text(temperature=0) == whole
    assert text(temperature=1, top_p=1e-6) == whole
    assert text(temperature=0, stop=whole[4:6]) == whole[: whole.find(whole[4:6])]
    assert len({text(temperature=2) for _ in range(6)}) > 1


def test_a_seed_is_refused(continuous):
    import openai

    with pytest.raises(openai.BadRequestError, match="seed is not honoured by continuous batching"):
        continuous[0].client().completions.create(model="tiny", prompt="x", seed=1)


class Client:
    def __init__(self, prompt, **sampling):
        self.events, self.over = [], threading.Event()
        self.job = Job(prompt, Sampling(**sampling), self.take, stream=True)

    def take(self, event):
        self.events.append(event)
        if not isinstance(event, Delta):
            self.over.set()


def test_the_model_raising_fails_what_runs_and_the_engine_goes_on():
    loaded = tiny_loaded()
    broken = threading.Event()
    inner = loaded.model.model.forward

    def forward(*args, **inputs):
        if broken.is_set():
            broken.clear()
            raise RuntimeError("no more memory")
        return inner(*args, **inputs)

    loaded.model.model.forward = forward
    engine = ContinuousEngine(loaded.model, Codec(loaded.tokenizer), max_batch=2, queue=3)
    engine.start()
    try:
        broken.set()
        first = Client([5, 6], max_tokens=4, temperature=0.0)
        engine.submit([first.job])
        assert first.over.wait(30)
        assert isinstance(first.events[-1], Failed)
        assert "no more memory" in first.events[-1].error.message
        second = Client([5, 6], max_tokens=4, temperature=0.0, ignore_eos=True)
        engine.submit([second.job])
        assert second.over.wait(30)
        assert second.events[-1].tokens == 4
        many = [Client([5], max_tokens=200, temperature=0.0, ignore_eos=True) for _ in range(5)]
        engine.submit([client.job for client in many])
        with pytest.raises(ServingError, match="limit of 3"):
            engine.submit([Client([5], max_tokens=3).job])
        for client in many:
            engine.cancel(client.job)
        assert engine.state().running == 0
    finally:
        engine.stop(10)
    assert not engine.state().alive


def test_greedy_engines_refuse_a_temperature_and_bad_counts_are_refused():
    loaded = tiny_loaded()
    codec = Codec(loaded.tokenizer)
    engine = ContinuousEngine(loaded.model, codec, greedy=True)
    with pytest.raises(ServingError, match="temperature is 1; allowed on this server: 0"):
        engine.check(Client([5], max_tokens=3).job)
    with pytest.raises(InputError, match="max_batch is 0"):
        ContinuousEngine(loaded.model, codec, max_batch=0)


def test_a_model_that_cannot_be_paged_is_refused_at_the_start():
    loaded = tiny_loaded()
    loaded.model.set_attn_implementation("flex_attention")
    with pytest.raises(InputError, match="cannot batch continuously"):
        ContinuousEngine(loaded.model, Codec(loaded.tokenizer))
