"""The HTTP API as the official client and rude ones meet it."""

import concurrent.futures
import json
import threading
import time

import openai
import pytest
import torch

from serving_tools import byte_tokenizer, get, post, running, tiny_engine, tiny_loaded
from superpose.errors import InputError
from superpose.models import LoadedModel
from superpose.serving import Codec, Done, ServerSettings, read_api_keys
from tiny import CONTEXT, tiny_model

MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]


def greedy(loaded, prompt, max_tokens):
    ids = torch.tensor([loaded.tokenizer(prompt)["input_ids"]])
    new = loaded.model.generate(ids, max_new_tokens=max_tokens, do_sample=False)[0, ids.shape[1] :]
    return loaded.tokenizer.decode(new, skip_special_tokens=True), len(new)


def settled(server, timeout=10):
    """Wait until the server has nothing to do."""
    end = time.monotonic() + timeout
    while server.engine.state().running or server.engine.state().waiting:
        assert time.monotonic() < end, "a place was not freed"
        time.sleep(0.01)


def test_models(server):
    client = server.client()
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "superpose"
    with pytest.raises(openai.NotFoundError, match="model is 'other'; allowed: tiny"):
        client.models.retrieve("other")


def test_completion_and_usage(server, loaded):
    answer = server.client().completions.create(model="tiny", prompt="hello", max_tokens=12, temperature=0)
    text, tokens = greedy(loaded, "hello", 12)
    assert answer.object == "text_completion"
    assert answer.choices[0].text == text
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 5,
        "completion_tokens": tokens,
        "total_tokens": 5 + tokens,
    }


def test_prompts_as_lists_and_as_tokens(server, loaded):
    client = server.client()
    several = client.completions.create(model="tiny", prompt=["hello", "x"], max_tokens=6, temperature=0)
    assert [choice.text for choice in several.choices] == [greedy(loaded, p, 6)[0] for p in ("hello", "x")]
    assert [choice.index for choice in several.choices] == [0, 1]
    tokens = loaded.tokenizer("hello")["input_ids"]
    for prompt in (tokens, [tokens]):
        answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=6, temperature=0)
        assert answer.choices[0].text == several.choices[0].text


def test_a_streamed_completion(server, loaded):
    stream = server.client().completions.create(
        model="tiny", prompt=["hello", "x"], max_tokens=9, temperature=0, stream=True
    )
    texts, reasons = ["", ""], [None, None]
    for chunk in stream:
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        reasons[choice.index] = choice.finish_reason
    assert texts == [greedy(loaded, p, 9)[0] for p in ("hello", "x")]
    assert set(reasons) <= {"stop", "length"}


def test_chat_streamed_and_not(server, loaded):
    client = server.client()
    text, _ = greedy(loaded, "<system>be brief\n<user>hello\n<assistant>", 11)
    whole = client.chat.completions.create(model="tiny", messages=MESSAGES, max_completion_tokens=11, temperature=0)
    assert whole.object == "chat.completion"
    assert whole.choices[0].message.role == "assistant"
    assert whole.choices[0].message.content == text
    stream = client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        max_tokens=11,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_chat_without_a_limit_goes_on_to_the_end_of_the_context(server):
    answer = server.client().chat.completions.create(
        model="tiny", messages=MESSAGES, temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.usage.total_tokens == CONTEXT
    assert answer.choices[0].finish_reason == "length"


def test_text_parts_and_developers_are_understood(server):
    client = server.client()
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "brief"}]},
        MESSAGES[1],
    ]
    same = [
        client.chat.completions.create(model="tiny", messages=each, max_tokens=8, temperature=0).choices[0].message
        for each in (messages, MESSAGES)
    ]
    assert same[0] == same[1]


def test_seed_temperature_and_stop_are_honoured(server):
    client = server.client()

    def text(**options):
        answer = client.completions.create(model="tiny", prompt="hello", max_tokens=30, **options)
        return answer.choices[0].text, answer.choices[0].finish_reason

    assert text(seed=1) == text(seed=1) != text(seed=2)
    assert text(seed=1, temperature=0) == text(seed=2, temperature=0)
    assert text(seed=1, top_p=1e-6) == text(temperature=0)
    whole, _ = text(temperature=0)
    assert text(temperature=0, stop=whole[3:5]) == (whole[: whole.find(whole[3:5])], "stop")
    assert text(temperature=0, stop=["\0", whole[6]])[0] == whole[: whole.find(whole[6])]


def test_health_and_metrics(server):
    assert json.loads(get(server, "/health"))["status"] == "ok"
    server.client().completions.create(model="tiny", prompt="hello", max_tokens=4, extra_body={"ignore_eos": True})
    before = server.metric("completion_tokens_total"), server.metric("prompt_tokens_total")
    server.client().completions.create(model="tiny", prompt="hello", max_tokens=4, extra_body={"ignore_eos": True})
    assert (server.metric("completion_tokens_total"), server.metric("prompt_tokens_total")) == (
        before[0] + 4,
        before[1] + 5,
    )
    text = get(server, "/metrics")
    assert 'superpose_requests_total{endpoint="/v1/completions",status="200"}' in text
    assert "superpose_batch_size_bucket" in text


def test_unicode_arrives_and_leaves_whole(server):
    client = server.client()
    for prompt in ("naïve café", "日本語 👍", "a\u0301\u200d\ufeff", "\u0000", "\U0001d518" * 10, "</s>\r\n"):
        answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=3, temperature=0)
        assert answer.choices[0].text.encode().decode() == answer.choices[0].text


def test_a_byte_level_model_never_streams_half_characters():
    tokenizer = byte_tokenizer()
    model = tiny_model("llama", vocab_size=257, eos_token_id=256)
    said = [*"né 👍日本".encode(), 256]
    start = len("go")
    forward = model.forward

    def scripted(*args, **inputs):
        output = forward(*args, **inputs)
        output.logits.fill_(0.0)
        for row, position in enumerate(inputs["position_ids"][:, -1].tolist()):
            output.logits[row, -1, said[min(position - start + 1, len(said) - 1)]] = 50.0
        return output

    model.forward = scripted
    loaded = LoadedModel(model, tokenizer, "bytes", "", "")
    with running(tiny_engine(loaded), ServerSettings(names=("bytes",), drain=5)) as server:
        client = server.client()
        asked = {"model": "bytes", "prompt": "go", "max_tokens": 40, "temperature": 0}
        pieces = [chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True)]
        assert "".join(pieces) == "né 👍日本"
        assert all("\ufffd" not in piece for piece in pieces)
        answer = client.completions.create(**asked)
        assert (answer.choices[0].text, answer.usage.completion_tokens) == ("né 👍日本", len(said))


def test_without_a_chat_template_chats_are_refused_or_plain():
    loaded = tiny_loaded(template=None)
    with running(tiny_engine(loaded)) as server, pytest.raises(openai.BadRequestError, match="no chat template"):
        server.client().chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=2)
    codec = Codec(loaded.tokenizer, plain_chat=True)
    assert loaded.tokenizer.decode(codec.encode_chat(MESSAGES)) == "system: be brief\nuser: hello\nassistant:"


def test_a_template_that_refuses_is_the_clients_error():
    loaded = tiny_loaded(template="{{ raise_exception('roles must alternate') }}")
    with running(tiny_engine(loaded)) as server, pytest.raises(openai.BadRequestError, match="roles must alternate"):
        server.client().chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=2)


def test_keys_are_asked_for_everywhere_but_for_health(loaded, tmp_path):
    path = tmp_path / "keys"
    path.write_text("# of the team\nsecret-one\n\n  schlüssel \n", encoding="utf-8")
    keys = read_api_keys(path)
    assert keys == ("secret-one", "schlüssel")
    with running(tiny_engine(loaded), ServerSettings(names=("tiny",), api_keys=keys, drain=5)) as server:
        assert server.client(api_key="secret-one").models.list().data
        for key in ("secret", "SECRET-ONE", "secret-onee"):
            with pytest.raises(openai.AuthenticationError, match="missing or wrong"):
                server.client(api_key=key).models.list()
        for path, status in (("/v1/models", 401), ("/metrics", 401)):
            assert post(server, path, b"", method="GET")[0] == status
        assert post(server, "/v1/models", b"", {"Authorization": "Basic secret-one"}, "GET")[0] == 401
        assert json.loads(get(server, "/health"))["status"] == "ok"
    path = tmp_path / "empty"
    path.write_text("\n# nothing\n")
    for wrong in (path, tmp_path / "absent"):
        with pytest.raises(InputError, match="--api-key-file"):
            read_api_keys(wrong)


class Slow:
    """Answers when it is told to."""

    def __init__(self, loaded):
        self.codec, self.context, self.vocabulary = Codec(loaded.tokenizer), 256, 121
        self.go = threading.Event()

    def run(self, jobs):
        while not self.go.wait(0.005) and not all(job.over for job in jobs):
            pass
        for job in jobs:
            job.finish(Done("late", "stop", 1))


def test_a_full_queue_is_429_with_retry_after(loaded):
    slow = Slow(loaded)
    with (
        running(tiny_engine(runner=slow, batch=1, queue=2)) as server,
        concurrent.futures.ThreadPoolExecutor(8) as pool,
    ):
        asked = {"model": "tiny", "prompt": "x"}
        accepted = [pool.submit(server.client().completions.create, **asked) for _ in range(3)]
        while server.engine.state().waiting < 2:
            time.sleep(0.005)
        status, headers, document = post(server, "/v1/completions", asked)
        assert (status, document["error"]["type"]) == (429, "rate_limit_error")
        assert int(headers["Retry-After"]) >= 1
        with pytest.raises(openai.RateLimitError):
            server.client().completions.create(**asked)
        slow.go.set()
        assert [each.result().choices[0].text for each in accepted] == ["late"] * 3


def test_a_late_answer_is_504_and_frees_its_place(loaded):
    slow = Slow(loaded)
    with running(tiny_engine(runner=slow), ServerSettings(names=("tiny",), timeout=0.1, drain=5)) as server:
        status, _, document = post(server, "/v1/completions", {"model": "tiny", "prompt": "x"})
        assert (status, document["error"]["code"]) == (504, "timeout")
        settled(server)
        stream = server.client().completions.create(model="tiny", prompt="x", stream=True)
        with pytest.raises(openai.APIError, match=r"limit of 0.1 s"):
            list(stream)
        settled(server)


def test_a_client_that_leaves_frees_its_place_whether_it_waits_runs_or_streams(loaded):
    slow = Slow(loaded)
    with running(tiny_engine(runner=slow, batch=1)) as server:
        for stream in (False, True):
            left = server.metric("abandoned_requests_total")
            for _ in range(2):
                with pytest.raises(openai.APITimeoutError):
                    answer = server.client(timeout=0.3).completions.create(model="tiny", prompt="x", stream=stream)
                    list(answer)
            settled(server)
            assert server.metric("abandoned_requests_total") == left + 2


def test_a_client_that_leaves_mid_stream_frees_its_row(server):
    left = server.metric("abandoned_requests_total")
    stream = server.client().completions.create(
        model="tiny", prompt="hello", max_tokens=240, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    stream.close()
    settled(server)
    assert server.metric("abandoned_requests_total") in (left, left + 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ()}, "names is"),
        ({"names": ("a",), "api_keys": ("",)}, "empty key"),
        ({"names": ("a",), "timeout": 0}, "timeout is 0"),
        ({"names": ("a",), "max_body": -1}, "max_body is -1"),
    ],
)
def test_settings_are_checked(options, message):
    with pytest.raises(InputError, match=message):
        ServerSettings(**options)
