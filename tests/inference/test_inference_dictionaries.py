"""Dictionaries: collected from the model's own cache, trained, saved, refused for other models."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import DynamicCache

from superpose.errors import InputError
from superpose.inference.dictionaries import (
    HEADER,
    TENSORS,
    Dictionaries,
    collect_kv,
    evaluate,
    fingerprint,
    relative_errors,
)
from superpose.inference.dictionary_training import DictionaryTrainer
from superpose.inference.omp import omp
from superpose.training import seeded
from tiny import tiny_model


def _tokens(rows: int = 4, length: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 90, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", ["llama", "qwen3", "mistral", "gemma3"])
def test_collects_what_the_cache_holds(shape: str):
    model, ids = tiny_model(shape), _tokens(2, 12)
    keys, values = collect_kv(model, [ids])
    cache = DynamicCache()
    with torch.no_grad():
        model(ids, past_key_values=cache, use_cache=True)
    sizes = fingerprint(model.config)
    assert keys.shape == (3, 2 * 12 * sizes["kv_heads"], sizes["head_dim"])
    for layer in range(3):
        held: Any = cache.layers[layer]
        wanted = held.keys.transpose(1, 2).reshape(-1, sizes["head_dim"])
        torch.testing.assert_close(keys[layer], wanted)
        wanted = held.values.transpose(1, 2).reshape(-1, sizes["head_dim"])
        torch.testing.assert_close(values[layer], wanted)


def test_padding_is_left_out():
    model, ids = tiny_model("llama"), _tokens(2, 10)
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    padded = collect_kv(model, [{"input_ids": ids, "attention_mask": mask}])
    alone = collect_kv(model, [ids[:1], ids[1:, 4:]])
    for one, other in zip(padded, alone, strict=True):
        torch.testing.assert_close(one, other)


def test_vectors_are_drawn_evenly_and_repeatably():
    model = tiny_model("llama")
    batches = [_tokens(1, 20, seed) for seed in range(3)]
    keys, _ = collect_kv(model, batches, vectors=50, seed=4)
    again, _ = collect_kv(model, batches, vectors=50, seed=4)
    every, _ = collect_kv(model, batches)
    assert keys.shape[1] == 50 and torch.equal(keys, again)
    where = torch.cdist(keys[0], every[0]).argmin(-1) // 40
    assert where.bincount().tolist() == [17, 17, 16]


def test_training_lowers_the_error_and_beats_random_atoms():
    model, train, held_out = tiny_model("llama"), [_tokens(8, 60)], [_tokens(2, 60, seed=1)]
    trainer = DictionaryTrainer(model, atoms=32, sparsity=2, batch=128, lr=1e-2)
    start, trained = trainer.fit(train, steps=0), trainer.fit(train, steps=60)
    again = trainer.fit(train, steps=60)
    random = Dictionaries.random(model, 32)
    errors = [evaluate(d, model, held_out, [2])[0] for d in (trained, start, random)]
    assert errors[0].key < errors[1].key < errors[2].key
    assert errors[0].value < errors[1].value < errors[2].value
    assert torch.equal(trained.keys, again.keys)
    norms = torch.linalg.vector_norm(trained.stack(), dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_one_step_equals_the_formula():
    model, text = tiny_model("llama"), [_tokens(4, 40)]
    trainer = DictionaryTrainer(model, atoms=16, sparsity=2, batch=64, lr=1e-2)
    before, after = trainer.fit(text, steps=0).stack(), trainer.fit(text, steps=1).stack()
    states = torch.cat(collect_kv(model, text, trainer.vectors))
    batch = states[:, torch.randint(states.shape[1], (64,), generator=seeded(0, "dictionary", 0))]
    for x, old, new in zip(batch, before, after, strict=True):
        codes = omp(x, old, 2)
        dense = torch.zeros(64, 16).scatter_(1, codes.indices, codes.coefficients)
        weighted = (dense @ old.T - x) / x.square().sum(-1, keepdim=True)
        gradient = 2 / 64 * weighted.T @ dense
        gradient = gradient - (gradient * old).sum(0) * old
        # The first step of Adam is the learning rate times the gradient's sign, but for its epsilon.
        moved = old - 1e-2 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(new, functional.normalize(moved, dim=0), atol=2e-4, rtol=0)


def test_training_resumes(tmp_path: Path):
    model, text = tiny_model("llama"), [_tokens(4, 40)]
    trainer = DictionaryTrainer(model, atoms=16, sparsity=2, batch=32)
    whole = trainer.fit(text, steps=100)

    def stop(done: int, total: int) -> None:
        if done == 70:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.fit(text, steps=100, checkpoint=tmp_path, progress=stop)
    steps: list[int] = []
    resumed = trainer.fit(text, steps=100, checkpoint=tmp_path, progress=lambda done, total: steps.append(done))
    assert steps[0] == 51
    assert torch.equal(whole.keys, resumed.keys) and torch.equal(whole.values, resumed.values)


def test_evaluate_is_the_mean_of_ratios():
    model, text = tiny_model("llama"), [_tokens(1, 9)]
    dictionaries = Dictionaries.random(model, 24, seed=3)
    (row,) = evaluate(dictionaries, model, text, [3])
    keys, _ = collect_kv(model, text)
    for layer in range(3):
        codes = omp(keys[layer], dictionaries.keys[layer], 3)
        rest = (keys[layer] - codes.decode(dictionaries.keys[layer])).norm(dim=-1)
        torch.testing.assert_close(row.keys[layer], (rest / keys[layer].norm(dim=-1)).mean())
    assert row.key == pytest.approx(float(row.keys.mean()))


def test_error_of_zeros_is_zero_and_falls_with_sparsity():
    model = tiny_model("llama")
    stack = Dictionaries.random(model, 24).stack()
    states = torch.cat([torch.zeros(6, 1, 8), torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(0))], dim=1)
    one, four = relative_errors(stack, states, 1), relative_errors(stack, states, 4)
    assert (one[:, 0] == 0).all() and (four[:, 1:] < one[:, 1:]).all()


def test_saved_and_loaded(tmp_path: Path):
    model = tiny_model("llama")
    dictionaries = Dictionaries.random(model, 24)
    folder = dictionaries.save(tmp_path / "made" / "here")
    loaded = Dictionaries.load(folder)
    assert torch.equal(loaded.keys, dictionaries.keys) and torch.equal(loaded.values, dictionaries.values)
    assert loaded.fingerprint == dictionaries.fingerprint
    loaded.check(model)
    Dictionaries.random(model, 16, seed=1).save(folder)
    assert Dictionaries.load(folder).atoms == 16
    assert sorted(p.name for p in folder.iterdir()) == [HEADER, TENSORS]


def test_damaged_folders_are_refused(tmp_path: Path):
    model = tiny_model("llama")
    with pytest.raises(InputError, match="which has no dictionaries"):
        Dictionaries.load(tmp_path / "nowhere")
    folder = Dictionaries.random(model, 24).save(tmp_path / "d")
    other = Dictionaries.random(model, 24, seed=1).save(tmp_path / "other")
    (other / TENSORS).replace(folder / TENSORS)
    with pytest.raises(InputError, match="do not belong together"):
        Dictionaries.load(folder)
    (folder / HEADER).write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read"):
        Dictionaries.load(folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(InputError, match="holds 'thesis"):
        Dictionaries.random(model, 24).save(tmp_path / "mine")
    with pytest.raises(InputError, match="which is a file"):
        Dictionaries.random(model, 24).save(tmp_path / "mine" / "thesis.tex")


def test_other_models_are_refused():
    model = tiny_model("llama")
    dictionaries = Dictionaries.random(model, 24)
    dictionaries.check(model)
    dictionaries.check(model.config)
    dictionaries.check(tiny_model("llama").bfloat16())
    with pytest.raises(InputError, match="for 3 layers with head dimension 8; this model has 2 layers"):
        dictionaries.check(tiny_model("llama", num_hidden_layers=2))
    with pytest.raises(InputError, match="model_type 'llama'; this model has 'qwen2'"):
        dictionaries.check(tiny_model("qwen2").config)
    tuned = tiny_model("llama", seed=1)
    dictionaries.check(tuned.config)
    with pytest.raises(InputError, match="weights"):
        dictionaries.check(tuned)
    with pytest.raises(InputError, match="rope"):
        dictionaries.check(tiny_model("llama", rope_parameters={"rope_type": "default", "rope_theta": 5.0}).config)


def test_fingerprint_is_plain_data():
    found = fingerprint(tiny_model("llama"))
    assert json.loads(json.dumps(found)) == found


def test_bad_input():
    model = tiny_model("llama")
    unit = functional.normalize(torch.randn(3, 8, 24), dim=1)
    with pytest.raises(InputError, match="norm is"):
        Dictionaries(unit, 2 * unit)
    with pytest.raises(InputError, match="values \\(3, 8, 20\\)"):
        Dictionaries(unit, unit[..., :20])
    with pytest.raises(InputError, match="atoms is 70000"):
        Dictionaries.random(model, 70000)
    with pytest.raises(InputError, match="sparsity is 9; allowed: 1 to 8"):
        DictionaryTrainer(model, 32, 9)
    with pytest.raises(InputError, match="init is 'magic'"):
        DictionaryTrainer(model, 32, 2, init="magic")
    with pytest.raises(InputError, match="steps is -1"):
        DictionaryTrainer(model, 32, 2).fit([_tokens()], steps=-1)
    with pytest.raises(InputError, match="8 vectors per layer; 32 sampled atoms"):
        DictionaryTrainer(model, 32, 2).fit([_tokens(1, 4)], steps=1)
    with pytest.raises(InputError, match="token_batches is empty"):
        collect_kv(model, [])
    with pytest.raises(InputError, match="vectors is 0"):
        collect_kv(model, [_tokens()], vectors=0)
    with pytest.raises(InputError, match="allowed: non-empty ids"):
        collect_kv(model, [torch.zeros(0, 5, dtype=torch.long)])
    with pytest.raises(InputError, match="attention_mask has shape"):
        collect_kv(model, [{"input_ids": _tokens(), "attention_mask": torch.ones(1, 2)}])
