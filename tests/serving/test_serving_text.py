"""Text that may be shown: whole characters, no stop strings, the same streamed or not."""

import random

import pytest

from serving_tools import byte_tokenizer
from superpose.serving import Codec, Delta, Done, Job, Sampling
from superpose.serving.output import Output
from superpose.serving.text import StopFinder, TextStream

TEXTS = [
    "plain",
    "naïve café",
    "日本語テキスト",
    "👩‍👩‍👧‍👦 family",
    "a\u0301 combining",
    "مرحبا",
    "\u0000nul",
    "\U0001d518\U0001d52b",
    "",
]
END = 256


@pytest.fixture(scope="module")
def codec():
    return Codec(byte_tokenizer())


def answer(codec, tokens, *, stream, stop=(), max_tokens=1000, before="prompt"):
    """Push tokens until the answer ends; return what was streamed, and the end."""
    events = []
    job = Job(codec.encode(before), Sampling(max_tokens, stop=tuple(stop)), events.append, stream=stream)
    output = Output(job, codec, {END})
    for token in tokens:
        if output.push(token):
            break
    return [e.text for e in events if isinstance(e, Delta)], next((e for e in events if isinstance(e, Done)), None)


def test_the_byte_tokenizer_is_one(codec):
    assert codec.encode("aé") == list("aé".encode())
    assert codec.decode(list("日".encode())) == "日"


@pytest.mark.parametrize("text", TEXTS)
def test_streamed_pieces_are_whole_characters_and_join_to_the_text(codec, text):
    pieces, done = answer(codec, [*text.encode(), END], stream=True)
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)
    assert (done.reason, done.tokens, done.text) == ("stop", len(text.encode()) + 1, "")
    assert answer(codec, [*text.encode(), END], stream=False)[1].text == text


def test_pieces_come_as_early_as_they_can(codec):
    stream = TextStream(codec)
    assert [stream.push(byte) for byte in "a€b".encode()] == ["a", "", "", "€", "b"]


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_character_cut_by_the_limit_becomes_a_replacement_character_once(codec, cut):
    tokens = [*b"ab", *"👍".encode()[:cut]]
    pieces, done = answer(codec, tokens, stream=True, max_tokens=len(tokens))
    assert "".join(pieces) == "ab\ufffd"
    assert done.reason == "length"
    assert answer(codec, tokens, stream=False, max_tokens=len(tokens))[1].text == "ab\ufffd"


def test_bytes_that_are_no_text_still_come_out_and_both_ways_agree(codec):
    draws = random.Random(0)
    for _ in range(200):
        tokens = [draws.randrange(256) for _ in range(draws.randrange(1, 60))]
        pieces, done = answer(codec, tokens, stream=True, max_tokens=len(tokens))
        assert done is not None
        assert "".join(pieces) == answer(codec, tokens, stream=False, max_tokens=len(tokens))[1].text
        assert "".join(pieces)


def test_long_rubbish_is_not_held_back_for_ever(codec):
    stream = TextStream(codec)
    shown = [stream.push(0x80) for _ in range(100)]
    assert sum(map(len, shown)) > 80


def test_the_prompts_last_bytes_do_not_leak_into_the_answer(codec):
    job = Job([*b"ab", 0xE2, 0x82], Sampling(10), lambda _: None, stream=True)
    events = []
    job._deliver = events.append
    output = Output(job, codec, {END})
    for token in [*b"xy", END]:
        output.push(token)
    assert "".join(e.text for e in events if isinstance(e, Delta)) == "xy"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one\ntwo", ["\n"], "one"),
        ("abcSTOPdef", ["STOP"], "abc"),
        ("abcSTSTOPdef", ["STOP"], "abcST"),
        ("xaabaac", ["aabaac", "zz"], "x"),
        ("cost 5€ now", ["€"], "cost 5"),
        ("first second", ["second", "first"], ""),
        ("no such thing", ["@@"], "no such thing"),
        ("ends with ST", ["STOP"], "ends with ST"),
    ],
)
def test_stop_strings_end_the_answer_and_are_not_in_it(codec, text, stop, expected, stream):
    pieces, done = answer(codec, [*text.encode(), END], stream=stream, stop=stop)
    assert "".join(pieces) + done.text == expected
    assert done.reason == "stop"
    if expected != text:
        found = min((text.find(s) + len(s), s) for s in stop if s in text)
        assert done.tokens == len(text[: found[0]].encode())


def test_a_stop_string_ends_the_answer_by_its_own_reason_at_the_limit_too(codec):
    pieces, done = answer(codec, list(b"ab!"), stream=True, stop=["!"], max_tokens=3)
    assert ("".join(pieces), done.reason) == ("ab", "stop")


def test_the_finder_agrees_with_searching_the_whole_text():
    draws = random.Random(1)
    for _ in range(500):
        text = "".join(draws.choice("ab") for _ in range(draws.randrange(1, 30)))
        stops = [
            "".join(draws.choice("ab") for _ in range(draws.randrange(1, 5))) for _ in range(draws.randrange(1, 3))
        ]
        finder, out, stopped = StopFinder(stops), "", False
        for character in text:
            passed, stopped = finder.push(character)
            out += passed
            if stopped:
                break
        out += "" if stopped else finder.finish()
        ends = [(text.find(s) + len(s), text.find(s)) for s in stops if s in text]
        if not ends:
            assert (out, stopped) == (text, False)
        else:
            # Character by character the first stop string to be complete counts, at its beginning.
            first = min(end for end, _ in ends)
            assert stopped
            assert out == text[: min(start for end, start in ends if end == first)]


def test_the_end_token_is_counted_but_ignored_on_request(codec):
    events = []
    job = Job([1], Sampling(3, ignore_eos=True), events.append)
    output = Output(job, codec, {END})
    assert [output.push(token) for token in (END, 65, END)] == [False, False, True]
    assert events == [Done("A", "length", 3)]
