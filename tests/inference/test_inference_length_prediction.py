"""Predictors share one contract; what can be read from a prompt is learned. And the server that uses them."""

import asyncio
import threading

import numpy as np
import pytest

from superpose.errors import InputError
from superpose.inference import (
    ConstantLength,
    EmbeddingLength,
    LengthPredictor,
    MultiBinServer,
    PromptLength,
    SlidingEdges,
    TfidfLength,
    bin_accuracy,
)
from tiny import tiny_model, tiny_tokenizer

PREDICTORS = {
    "constant": ConstantLength,
    "prompt": PromptLength,
    "tfidf": TfidfLength,
    "embedding": lambda: EmbeddingLength(tiny_model("llama"), tiny_tokenizer(), batch_size=4),
}
SHORT, LONG = [f"yes or no: {w}?" for w in "abcdefgh"], [f"write a story about {w}" for w in "abcdefgh"]
PROMPTS, LENGTHS = [*SHORT, *LONG], [5.0] * 8 + [200.0] * 8


@pytest.fixture(params=PREDICTORS.values(), ids=PREDICTORS.keys())
def predictor(request):
    return request.param()


def test_every_predictor_keeps_the_contract(predictor):
    assert isinstance(predictor, LengthPredictor)
    with pytest.raises(InputError, match="not fitted"):
        predictor.predict(["a"])
    assert predictor.fit(PROMPTS, LENGTHS) is predictor
    found = predictor.predict(["yes or no: z?", "something else entirely", ""])
    assert found.shape == (3,)
    assert (np.isfinite(found) & (found >= 0)).all()
    assert predictor.predict([]).shape == (0,)
    again = predictor.predict(["yes or no: z?", "something else entirely", ""])
    np.testing.assert_array_equal(found, again)


def test_every_predictor_refuses_examples_that_do_not_fit(predictor):
    for prompts, lengths, message in (
        (["a"], [1.0, 2.0], "prompts and lengths have 1 and 2"),
        (["a"], [-1.0], r"lengths\[0\] is -1"),
        ([], [], "at least one request"),
    ):
        with pytest.raises(InputError, match=message):
            predictor.fit(prompts, lengths)


@pytest.mark.parametrize("name", ["prompt", "tfidf", "embedding"])
def test_what_the_prompt_says_is_learned(name):
    predictor = PREDICTORS[name]().fit(PROMPTS, LENGTHS)
    short, long = predictor.predict(["yes or no: k?", "write a story about k"])
    assert short < 60
    assert long > 140


def test_constant_is_the_median_and_prompt_length_a_line():
    assert ConstantLength().fit(["a", "b", "c"], [1, 2, 9]).predict(["x", "y"]).tolist() == [2, 2]
    line = PromptLength().fit(["a", "aa", "aaaa"], [3, 5, 9])
    np.testing.assert_allclose(line.predict(["aaa", ""]), [7, 1])
    assert PromptLength().fit(["a", "b"], [3, 5]).predict(["cc"]).tolist() == [4]


def test_numbers_never_seen_are_understood():
    seen = [n for n in range(3, 60) if n != 41]
    predictor = TfidfLength().fit([f"count to {n}" for n in seen], [2.0 * n for n in seen])
    assert predictor.predict(["count to 41"])[0] == pytest.approx(82, rel=0.25)


def test_the_loss_is_absolute_so_that_outliers_do_not_pull():
    prompts = [f"say {w}" for w in "abcdefghijklmnopqrst"]
    lengths = [10.0] * 18 + [1000.0, 1000.0]
    assert np.median(TfidfLength(penalty=0.01).fit(prompts, lengths).predict(prompts)) < 30


def test_bin_accuracy_counts_right_and_near():
    distance, right, near = bin_accuracy([1, 11, 21, 31], [1, 1, 1, 31], [0, 10, 20, 30, 40])
    assert distance.tolist() == [0, 1, 2, 0]
    assert (right, near) == (0.5, 0.75)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TfidfLength(ngrams=0), "ngrams is 0"),
        (lambda: TfidfLength(penalty=0.0), "penalty is 0"),
        (lambda: EmbeddingLength(tiny_model("llama"), tiny_tokenizer(), batch_size=0), "batch_size is 0"),
        (lambda: bin_accuracy([1, 2], [1], [0, 1]), "have 2 and 1"),
    ],
)
def test_wrong_settings_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


class CharactersSaid:
    def fit(self, prompts, lengths):
        return self

    def predict(self, prompts):
        return np.array([float(prompt.partition(" ")[0]) for prompt in prompts])


def shout(seen):
    def generate(prompts):
        seen.append(list(prompts))
        if any("boom" in prompt for prompt in prompts):
            raise RuntimeError("boom")
        return [prompt.upper() for prompt in prompts]

    return generate


def test_the_server_gives_everyone_their_own_answer_in_batches_of_one_bin():
    seen, prompts = [], [f"{n} w{n}" for n in range(101)]
    with MultiBinServer(shout(seen), CharactersSaid(), [0, 50, 100], batch_size=4, max_wait=60) as server:
        futures = [server.submit(prompt) for prompt in prompts[::-1]]
        server.close()  # the last batches are not full
        assert [future.result(0) for future in futures] == [prompt.upper() for prompt in prompts[::-1]]
    assert sorted(p for batch in seen for p in batch) == sorted(prompts)
    assert all(len({int(p.split()[0]) >= 50 for p in batch}) == 1 for batch in seen)


def test_the_server_answers_an_event_loop_and_many_threads():
    with MultiBinServer(shout([]), CharactersSaid(), None, batch_size=8, max_wait=0.01) as server:

        async def many():
            return await asyncio.gather(*(server.generate(f"1 a{i}") for i in range(20)))

        assert asyncio.run(many()) == [f"1 A{i}" for i in range(20)]
        got = {}
        threads = [
            threading.Thread(target=lambda i=i: got.update({i: server.map([f"2 b{i}-{j}" for j in range(5)])}))
            for i in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert got == {i: [f"2 B{i}-{j}" for j in range(5)] for i in range(8)}


def test_a_failing_batch_fails_alone_and_closing_answers_what_waits():
    with MultiBinServer(shout([]), CharactersSaid(), [0, 10, 20], batch_size=2, max_wait=60) as server:
        bad = [server.submit("1 boom"), server.submit("2 innocent")]
        good = [server.submit("11 a"), server.submit("12 b")]
        waits = server.submit("3 left")
        assert [future.result(10) for future in good] == ["11 A", "12 B"]
        for future in bad:
            with pytest.raises(RuntimeError, match="boom"):
                future.result(10)
    assert waits.result(0) == "3 LEFT"
    with pytest.raises(InputError, match="closed"):
        server.submit("1 late")


def test_too_few_texts_are_an_error_not_a_mix_up():
    with (
        MultiBinServer(lambda prompts: [], CharactersSaid(), batch_size=1) as server,
        pytest.raises(InputError, match="0 texts for 1 prompts"),
    ):
        server.map(["1 a"])


def test_edges_follow_the_answers():
    seen = []
    sliding = SlidingEdges(2, window=4, every=4)
    follow = {"length": lambda text: float(text.split()[0]), "sliding": sliding}
    with MultiBinServer(shout(seen), CharactersSaid(), None, 2, 60, **follow) as s:
        s.map(["1 a", "9 a", "1 b", "9 b"])
        s.map(["1 c", "9 c", "9 d", "1 d"])
    assert sorted(map(sorted, seen[2:])) == [["1 c", "1 d"], ["9 c", "9 d"]]
    with pytest.raises(InputError, match="length is None"):
        MultiBinServer(shout([]), CharactersSaid(), sliding=sliding)
