"""Learners: embedding, read-out, line embeddings, cached continuation, saving and loading."""

import json

import pytest
import torch

from superpose.errors import InputError
from superpose.models import Context, ContinuousLearner, TokenLearner, backbone_spec, load_learner

SPEC = backbone_spec("looped", width=16, heads=2, loops=3, max_positions=24)
TOKENS = backbone_spec("transformer", width=16, heads=2, positions="none", max_positions=24)


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def learners():
    return {
        "continuous": (ContinuousLearner(SPEC, 3, 2), torch.randn(2, 9, 3)),
        "token": (TokenLearner(TOKENS, 7), torch.randint(7, (2, 9))),
        "tied lines": (TokenLearner(SPEC, 7, tied=True, line_length=4, lead=1), torch.randint(7, (2, 9))),
    }


kinds = pytest.mark.parametrize("kind", list(learners()))


@kinds
def test_loops_windows_and_reads_pass_through(kind):
    learner, inputs = learners()[kind]
    every = learner(inputs, loops=4, return_all=True)
    assert every.shape[:3] == (4, 2, 9)
    reads = torch.tensor([1, 8])
    windowed = learner(inputs, None, loops=4, grad_loops=2, return_all=True, reads=reads)
    torch.testing.assert_close(windowed, every[2:][:, :, reads])
    torch.testing.assert_close(learner(inputs, loops=4), every[-1])


@kinds
def test_token_by_token_equals_at_once_with_padding_on_the_left(kind):
    learner, inputs = learners()[kind]
    real = torch.ones(2, 12, dtype=torch.bool)
    real[:, :3] = False
    padded = torch.cat((inputs[:, :3], inputs), 1)
    whole = learner(inputs)
    torch.testing.assert_close(learner(padded, Context(padding=real))[:, 3:], whole, rtol=0, atol=1e-5)
    y, state = learner.extend(padded[:, :5], None, real[:, :5])
    pieces = [y[:, 3:]]
    for t in range(5, 12):
        y, state = learner.extend(padded[:, t : t + 1], state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-5)


@kinds
def test_saved_learner_loads_with_equal_outputs(kind, tmp_path):
    learner, inputs = learners()[kind]
    learner.save(tmp_path / "deep" / "folder")
    again = load_learner(tmp_path / "deep" / "folder", learner.spec)
    assert type(again) is type(learner) and again.spec == learner.spec
    assert torch.equal(again(inputs), learner(inputs))
    assert sorted(path.name for path in (tmp_path / "deep" / "folder").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    with torch.no_grad():
        next(learner.parameters()).add_(1.0)
    learner.save(tmp_path / "deep" / "folder")
    assert torch.equal(type(learner).load(tmp_path / "deep" / "folder")(inputs), learner(inputs))


def test_a_seed_fixes_the_weights_and_leaves_the_generator_alone():
    before = torch.get_rng_state()
    first, second, other = (ContinuousLearner(SPEC, 3, 1, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.randn(1, 4, 3)
    assert torch.equal(first(x), second(x)) and not torch.equal(first(x), other(x))
    tokens = [TokenLearner(TOKENS, 7, line_length=4, seed=1)(torch.arange(7)[None]) for _ in range(2)]
    assert torch.equal(*tokens)


def test_line_embeddings_are_slot_in_line_plus_line_index():
    learner = TokenLearner(TOKENS, 9, line_length=3, lead=2)
    ids = torch.randint(9, (1, 10))
    slots = torch.tensor([0, 1, 2, 3, 4, 2, 3, 4, 2, 3])
    lines = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 2])
    embedded = learner.embedding(ids) + learner.slots(slots) + learner.lines(lines)
    expected = learner.head(learner.backbone(embedded))
    torch.testing.assert_close(learner(ids), expected)
    assert learner.slots.num_embeddings == 5 and learner.lines.num_embeddings == 9


def test_tied_head_is_the_embedding():
    learner = TokenLearner(TOKENS, 7, tied=True)
    assert (
        sum(p.numel() for p in learner.parameters())
        == sum(p.numel() for p in TokenLearner(TOKENS, 7).parameters()) - 7 * 16
    )
    hidden = learner.backbone(learner.embedding(torch.tensor([[1, 2]])))
    torch.testing.assert_close(learner(torch.tensor([[1, 2]])), hidden @ learner.embedding.weight.T)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ContinuousLearner(SPEC, 0, 1), "in_dim is 0"),
        (lambda: ContinuousLearner(SPEC, 1, 0), "out_dim is 0"),
        (lambda: TokenLearner(SPEC, 0), "vocab is 0"),
        (lambda: TokenLearner(SPEC, 5, line_length=0), "line_length is 0"),
        (lambda: TokenLearner(SPEC, 5, lead=-1), "lead is -1"),
        (
            lambda: ContinuousLearner(SPEC, 3, 1)(torch.randn(1, 2, 4)),
            r"inputs have dimension 4; allowed: 3 \(in_dim\)",
        ),
        (lambda: ContinuousLearner(SPEC, 3, 1)(torch.randn(1, 25, 3)), "the prompt has 25 positions; allowed: 24"),
        (
            lambda: TokenLearner(TOKENS, 5, line_length=4)(torch.zeros(1, 25, dtype=torch.long)),
            "the prompt has 25 positions; allowed: 24",
        ),
    ],
)
def test_wrong_input_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_folders_that_do_not_fit_are_refused(tmp_path):
    learner = ContinuousLearner(SPEC, 3, 1)
    learner.save(tmp_path)
    with pytest.raises(InputError, match="holds a ContinuousLearner; allowed: TokenLearner"):
        TokenLearner.load(tmp_path)
    with pytest.raises(InputError, match=r"holds another architecture: .*width 16, allowed: 32"):
        ContinuousLearner.load(tmp_path, backbone_spec("looped", width=32, heads=2, loops=3, max_positions=24))
    with pytest.raises(InputError, match=r"allowed: a folder that Learner.save wrote"):
        load_learner(tmp_path / "nowhere")

    edit(tmp_path, version=2)
    with pytest.raises(InputError, match="has format version 2; allowed: 1"):
        load_learner(tmp_path)
    edit(tmp_path, version=1, learner="VisionLearner")
    with pytest.raises(InputError, match="is 'VisionLearner'; allowed: ContinuousLearner, TokenLearner"):
        load_learner(tmp_path)
    edit(tmp_path, learner="ContinuousLearner", arguments={"in_dim": 4, "out_dim": 1})
    with pytest.raises(InputError, match=r"weights that do not fit its config.json.*read_in.weight"):
        load_learner(tmp_path)
    edit(tmp_path, arguments={"dimension": 4})
    with pytest.raises(InputError, match=r"has arguments \{'dimension': 4\}"):
        load_learner(tmp_path)
    edit(tmp_path, format="another")
    with pytest.raises(InputError, match=r"holds no superpose.learner"):
        load_learner(tmp_path)
    (tmp_path / "config.json").write_text('{"format":')
    with pytest.raises(InputError, match=r"config.json that is not JSON"):
        load_learner(tmp_path)

    learner.save(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(InputError, match="weights that do not fit"):
        load_learner(tmp_path)
    weights.unlink()
    with pytest.raises(InputError, match="weights that do not fit"):
        load_learner(tmp_path)


@pytest.mark.parametrize("name", ["transformer", "mambaformer"])
def test_a_learner_learns_to_repeat_the_previous_token(name):
    spec = backbone_spec(name, width=16, heads=2, depth=1, max_positions=6)
    learner = TokenLearner(spec, 3, seed=0)
    optimiser = torch.optim.Adam(learner.parameters(), lr=1e-2)
    for _ in range(80):
        ids = torch.randint(3, (32, 6))
        logits = learner(ids)[:, 1:]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, :-1].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    # log(3) = 1.10 is chance.
    assert loss < 0.3
