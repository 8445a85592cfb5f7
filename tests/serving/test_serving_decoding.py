"""A batch continued row by row equals each prompt continued alone by `generate`."""

import pytest
import torch
from transformers import DynamicCache

from serving_tools import tiny_loaded
from superpose.errors import InputError
from superpose.serving import BatchDecoder, Codec, Done, Failed, Job, Sampling
from tiny import tiny_model, tiny_tokenizer

PROMPTS = ["hello", "a much longer prompt than the others, to be padded against", "x", "one two three"]


def alone(loaded, prompt, max_tokens, **options):
    ids = torch.tensor([loaded.tokenizer(prompt)["input_ids"]])
    out = loaded.model.generate(ids, max_new_tokens=max_tokens, do_sample=False, **options)
    return out[0, ids.shape[1] :].tolist()


def run(decoder, prompts, settings, stream=False):
    """Run prompts as one batch; return the jobs' events."""
    events = [[] for _ in prompts]
    jobs = [
        Job(decoder.codec.encode(p), s, e.append, stream=stream)
        for p, s, e in zip(prompts, settings, events, strict=True)
    ]
    decoder.run(jobs)
    return events


@pytest.mark.parametrize("shape", ["llama", "qwen3", "gemma3", "gpt2", "gpt_neox"])
def test_every_row_equals_generate_alone(shape):
    loaded = tiny_loaded()
    model = tiny_model(shape)
    loaded = type(loaded)(model, loaded.tokenizer, "tiny", "", "")
    decoder = BatchDecoder(model, Codec(loaded.tokenizer))
    limits = [5, 20, 12, 1]
    events = run(decoder, PROMPTS, [Sampling(n, temperature=0.0) for n in limits])
    for prompt, limit, (done,) in zip(PROMPTS, limits, events, strict=True):
        expected = alone(loaded, prompt, limit)
        ended = expected[-1] == loaded.tokenizer.eos_token_id
        assert done.text == loaded.tokenizer.decode(expected, skip_special_tokens=True)
        assert (done.tokens, done.reason) == (len(expected), "stop" if ended else "length")


def test_a_streamed_answer_is_the_same(loaded):
    decoder = BatchDecoder(loaded.model, Codec(loaded.tokenizer))
    settings = [Sampling(15, temperature=0.0)] * len(PROMPTS)
    for streamed, (done,) in zip(
        run(decoder, PROMPTS, settings, stream=True), run(decoder, PROMPTS, settings), strict=True
    ):
        assert "".join(event.text for event in streamed) == done.text
        assert isinstance(streamed[-1], Done)
        assert streamed[-1].tokens == done.tokens


def test_rows_that_end_leave_the_batch(loaded):
    sizes = []

    class Watched(DynamicCache):
        def batch_select_indices(self, indices):
            sizes.append(len(indices))
            super().batch_select_indices(indices)

    decoder = BatchDecoder(loaded.model, Codec(loaded.tokenizer), lambda: Watched(config=loaded.model.config))
    limits = [3, 9, 6, 9]
    run(decoder, PROMPTS, [Sampling(n, temperature=0.0, ignore_eos=True) for n in limits])
    assert sizes == [3, 2]


def test_a_row_whose_client_has_gone_leaves_the_batch(loaded):
    decoder = BatchDecoder(loaded.model, Codec(loaded.tokenizer))
    seen, others = [], []
    sampling = Sampling(30, temperature=0.0, ignore_eos=True)
    prompt = decoder.codec.encode("hello")

    def leave(event):
        seen.append(event)
        if len(seen) == 4:
            going.cancel()

    going = Job(prompt, sampling, leave, stream=True)
    decoder.run([going, Job(prompt, sampling, others.append)])
    assert len(seen) == 4
    assert others[-1].tokens == 30


def test_a_job_that_was_given_up_before_is_not_run(loaded):
    decoder = BatchDecoder(loaded.model, Codec(loaded.tokenizer))
    job = Job([5], Sampling(3), lambda _: pytest.fail("nobody listens"))
    job.cancel()
    decoder.run([job])


def test_sampled_rows_do_not_depend_on_their_neighbours(loaded):
    decoder = BatchDecoder(loaded.model, Codec(loaded.tokenizer))
    settings = [
        Sampling(12, temperature=0.0),
        Sampling(12, temperature=1.3, seed=4),
        Sampling(12, top_p=0.6, seed=4),
        Sampling(8, seed=5, stop=("e",)),
    ]
    together = run(decoder, PROMPTS, settings)
    for prompt, sampling, events in zip(PROMPTS, settings, together, strict=True):
        assert run(decoder, [prompt], [sampling]) == [events]


def test_a_row_with_broken_logits_fails_alone():
    loaded = tiny_loaded()
    forward = loaded.model.forward

    def broken(*args, **inputs):
        output = forward(*args, **inputs)
        if len(output.logits) == 2:
            output.logits[0] = float("nan")
        return output

    loaded.model.forward = broken
    sampling = Sampling(5, temperature=0.0, ignore_eos=True)
    events = run(BatchDecoder(loaded.model, Codec(loaded.tokenizer)), PROMPTS[:2], [sampling] * 2)
    assert isinstance(events[0][0], Failed)
    assert "not finite" in events[0][0].error.message
    assert events[1][0].tokens == 5


def test_the_beginning_of_an_answer_is_as_the_tokenizer_writes_it_after_the_prompt():
    tokenizer = tiny_tokenizer()
    codec = Codec(tokenizer)
    assert codec.decode(codec.encode("ab c")) == "ab c"
    with pytest.raises(InputError, match="prompt has no tokens"):
        Job([], Sampling(1), lambda _: None)
