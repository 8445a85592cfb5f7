"""From a model and a few words to an engine: what goes together, and what a compressed cache changes."""

import pytest

from serving_tools import tiny_loaded
from superpose.errors import InputError
from superpose.inference import Dictionaries, LexicoSettings
from superpose.serving import BatchDecoder, BatchEngine, ContinuousEngine, Job, Sampling, build_engine
from tiny import tiny_model

PROMPTS = ["hello", "a much longer prompt than the others, to be padded against", "x", "one two three"]
LIMITS = [30, 40, 25, 1]


def answers(engine, prompts):
    events = [[] for _ in prompts]
    jobs = [
        Job(
            engine.codec.encode(prompt),
            Sampling(LIMITS[PROMPTS.index(prompt)], temperature=0.0, ignore_eos=True),
            e.append,
        )
        for prompt, e in zip(prompts, events, strict=True)
    ]
    engine._runner.run(jobs)
    return [done.text for (done,) in events]


def test_lexico_with_a_long_exact_window_equals_the_dynamic_cache(loaded):
    made = Dictionaries.random(loaded.model, 32, 0)
    engines = [
        build_engine(loaded, cache="lexico", dictionaries=made, lexico=LexicoSettings(buffer=200)),
        build_engine(loaded),
    ]
    assert answers(engines[0], PROMPTS) == answers(engines[1], PROMPTS)


def test_lexico_codes_a_batch_as_it_codes_each_row_alone(loaded):
    settings = LexicoSettings(key_sparsity=3, value_sparsity=3, buffer=4, block=1, coefficients="fp16")
    engine = build_engine(
        loaded, cache="lexico", dictionaries=Dictionaries.random(loaded.model, 32, 0), lexico=settings
    )
    together = answers(engine, PROMPTS)
    assert together == [answers(engine, [prompt])[0] for prompt in PROMPTS]
    assert together != answers(build_engine(loaded), PROMPTS)


def test_every_way_of_batching_can_be_asked_for(loaded):
    assert isinstance(build_engine(loaded, batching="multi-bin", edges=[1, 20, 40]), BatchEngine)
    assert isinstance(build_engine(loaded), BatchEngine)
    assert isinstance(build_engine(tiny_loaded(), batching="continuous"), ContinuousEngine)
    assert isinstance(build_engine(loaded)._runner, BatchDecoder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batching": "best"}, "batching is 'best'"),
        ({"cache": "static"}, "cache is 'static'"),
        ({"batching": "multi-bin"}, "edges is None"),
        ({"edges": [1, 2, 3]}, "batching is 'fcfs'"),
        ({"batching": "multi-bin", "edges": [3, 2, 1]}, "edges"),
        ({"cache": "lexico"}, "dictionaries is None"),
        ({"lexico": LexicoSettings()}, "cache is 'dynamic'"),
        ({"cache": "lexico", "batching": "continuous"}, "continuous batching has a paged cache"),
        ({"max_batch": 0}, "batch_size is 0"),
        ({"max_wait": -1.0}, "max_wait is -1.0"),
        ({"queue": 0}, "queue is 0"),
    ],
)
def test_what_does_not_go_together_is_refused(loaded, options, message):
    with pytest.raises(InputError, match=message):
        build_engine(loaded, **options)


def test_dictionaries_of_another_model_are_refused(loaded):
    other = Dictionaries.random(tiny_model("llama", num_hidden_layers=2), 32, 0)
    with pytest.raises(InputError):
        build_engine(loaded, cache="lexico", dictionaries=other)
