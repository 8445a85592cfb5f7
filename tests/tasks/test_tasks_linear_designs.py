"""The designs draw what they say, their closed forms fit what they draw, and Bayes' predictor is not beaten."""

import dataclasses

import pytest
import torch
from torch.utils.data import DataLoader

from superpose.errors import InputError
from superpose.tasks import AlignedDesign, DriftDesign, EpisodeStream, IIDDesign, RAGDesign, task
from superpose.theory import least_squares

PATH = torch.tensor([[1.0, 0.2, 0.3, 0.1], [0.2, 2.0, 0.1, 0.4], [0.3, 0.1, 1.0, 0.6], [0.1, 0.4, 0.6, 1.5]])
DESIGNS = {
    "iid": IIDDesign(
        3, 8, 0.5, inputs=((2.0, 0.5, 0), (0.5, 1, 0), (0, 0, 0.5)), tasks=((1, 0, 0), (0, 2, 0), (0, 0, 3))
    ),
    "mean": IIDDesign(3, 8, 0.5, task_mean=(1.0, 0.0, 0.0)),
    "rag": RAGDesign(4, 8, 0.5, alpha=0.6),
    "aligned": AlignedDesign(4, 8, 0.5, alpha=0.4),
    "drift": DriftDesign(3, 8, 0.3, correlation=0.8),
    "path": DriftDesign(2, 3, correlation=PATH, row_noise=(2.0, 0.1, 0.5, 0.3)),
}


@pytest.fixture(params=DESIGNS)
def design(request):
    return DESIGNS[request.param]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def predictions(design, batch):
    """The best step of the design, written out."""
    x, y = batch.info["x"].double(), batch.info["y"].double()
    moment = torch.einsum("bnd,bn->bd", x[:, :-1], design.optimal_weights() * y[:, :-1])
    return torch.einsum("bd,de,be->b", x[:, -1], design.optimal_preconditioner(), moment)


def test_rows_hold_examples_and_the_query_without_its_label(design, generator):
    batch = design.sample(5, generator)
    x, y = batch.info["x"], batch.info["y"]
    assert batch.inputs.shape == (5, design.points + 1, design.dim + 1)
    assert torch.equal(batch.inputs[..., :-1], x) and torch.equal(batch.inputs[:, :-1, -1], y[:, :-1])
    assert not batch.inputs[:, -1, -1].any()
    assert torch.equal(batch.targets[:, 0, 0], y[:, -1]) and batch.reads.tolist() == [design.points]


def test_the_best_step_has_the_risk_it_should_have(design, generator):
    batch = design.sample(40_000, generator)
    target = batch.targets[:, 0, 0].double()
    errors = (target - predictions(design, batch)).square()
    assert abs(float(errors.mean()) - design.optimal_risk()) < 4 * float(errors.std()) / len(errors) ** 0.5
    square = target.square()
    assert abs(float(square.mean()) - design.scale) < 4 * float(square.std()) / len(square) ** 0.5
    # The slope of the target on the prediction is 1 at the optimum: a scale that is off shows here first.
    slope = (predictions(design, batch) * (target - predictions(design, batch))).double()
    assert abs(float(slope.mean())) < 4 * float(slope.std()) / len(slope) ** 0.5


def test_bayes_is_orthogonal_to_its_error_and_better_than_the_step(design, generator):
    batch = design.sample(4000, generator)
    target, bayes = batch.targets[:, 0, 0].double(), design.bayes(batch)
    error = target - bayes
    for known in (bayes, predictions(design, batch), batch.info["y"][:, -2].double()):
        product = error * known
        assert abs(float(product.mean())) < 4 * float(product.std()) / len(product) ** 0.5
    assert float(error.square().mean()) < design.optimal_risk()
    torch.testing.assert_close(
        design.optimum(batch)[:, 0].double(), error.square() / design.scale, rtol=1e-4, atol=1e-6
    )


def test_chance_is_what_the_query_alone_gives():
    for design, known in (
        (DESIGNS["mean"], lambda x: x[:, 0]),
        (DESIGNS["aligned"], lambda x: DESIGNS["aligned"].gain * 0.4 * x.square().sum(-1) / (1 + 0.4**2)),
    ):
        batch = design.sample(40_000, torch.Generator().manual_seed(1))
        errors = (batch.targets[:, 0, 0] - known(batch.info["x"][:, -1])).square() / design.scale
        assert abs(float(errors.mean()) - design.chance) < 4 * float(errors.std()) / len(errors) ** 0.5
        assert design.chance < 1


def test_bayes_without_noise_is_least_squares(generator):
    design = IIDDesign(3, 6)
    batch = design.sample(50, generator)
    x, y = batch.info["x"].double(), batch.info["y"].double()
    wanted = (x[:, -1] * least_squares(x[:, :-1], y[:, :-1])).sum(-1)
    torch.testing.assert_close(design.bayes(batch), wanted, rtol=1e-4, atol=1e-4)
    # Fewer examples than coordinates: the labels leave a plane of tasks open.
    short = design.sample(50, generator, points=2)
    x, y = short.info["x"].double(), short.info["y"].double()
    torch.testing.assert_close(design.bayes(short), (x[:, -1] * least_squares(x[:, :-1], y[:, :-1])).sum(-1))


def test_retrieved_examples_lie_as_close_as_alpha_says(generator):
    batch = RAGDesign(4, 3, alpha=0.6).sample(20_000, generator)
    x, query = batch.info["x"][:, :-1], batch.info["x"][:, -1:]
    assert float((x * query).mean()) == pytest.approx(0.6, abs=0.02)
    assert float(x.square().mean()) == pytest.approx(1, abs=0.02)
    copies = RAGDesign(4, 3, alpha=1.0).sample(2, generator).info["x"]
    assert torch.equal(copies[:, 0], copies[:, -1])


def test_drift_is_correlated_as_asked_and_shorter_prompts_are_its_end(generator):
    design = DESIGNS["path"]
    path = design.sample(40_000, generator).info["path"]
    found = torch.einsum("bid,bjd->ij", path, path) / (len(path) * 2)
    torch.testing.assert_close(found, PATH, rtol=0.05, atol=0.05)
    short = design.sample(40_000, generator, points=1).info["path"]
    found = torch.einsum("bid,bjd->ij", short, short) / (len(short) * 2)
    torch.testing.assert_close(found, PATH[2:, 2:], rtol=0.05, atol=0.05)
    assert len(design.optimal_weights(1)) == 1


def test_a_design_without_drift_is_iid():
    still, plain = DriftDesign(4, 7, 0.3, correlation=1.0), IIDDesign(4, 7, 0.3)
    assert still.optimal_risk() == pytest.approx(plain.optimal_risk())
    assert still.optimal_weights()[0] == pytest.approx(float(plain.optimal_preconditioner()[0, 0]))


def test_designs_are_data_equal_by_content_and_buildable_from_plain_lists():
    one = IIDDesign(2, 3, tasks=torch.eye(2))
    assert one == IIDDesign(2, 3, tasks=[[1, 0], [0, 1]]) == task("iid-linear", dim=2, points=3, tasks=[[1, 0], [0, 1]])
    assert hash(one) == hash(dataclasses.replace(one)) and "tensor" not in repr(one)


def test_optima_for_other_lengths_and_ranks():
    design = DESIGNS["iid"]
    assert design.optimal_risk(40) < design.optimal_risk() < design.optimal_risk(1)
    assert design.optimal_risk(rank=1) > design.optimal_risk(rank=2) > design.optimal_risk(rank=3) - 1e-12
    assert torch.linalg.matrix_rank(design.optimal_preconditioner(rank=1)) == 1
    assert DESIGNS["rag"].approximate_risk() < DESIGNS["rag"].optimal_risk()


def test_streams_repeat_and_workers_share_them():
    stream = EpisodeStream(IIDDesign(2, 3), batch=4, seed=1)
    first = [inputs for inputs, _ in zip_some(stream, 4)]
    again = [inputs for inputs, _ in zip_some(stream, 4)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    loaded = [inputs for inputs, _ in zip_some(DataLoader(stream, batch_size=None, num_workers=2), 4)]
    assert all(torch.equal(a, b) for a, b in zip(first, loaded, strict=True))


def zip_some(stream, count):
    return [pair for pair, _ in zip(stream, range(count), strict=False)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RAGDesign(4, 8, alpha=1.5), r"alpha is 1.5; allowed: 0 to 1"),
        (lambda: AlignedDesign(4, 8, alpha=-1.0), r"alpha is -1.0"),
        (lambda: IIDDesign(0, 8), r"dim is 0"),
        (lambda: IIDDesign(3, 8, noise=-0.1), r"noise is -0.1"),
        (lambda: IIDDesign(2, 8, tasks=((1, 0.5), (0, 1))), r"tasks is asymmetric"),
        (lambda: IIDDesign(2, 8, inputs=((1, 2), (2, 1))), r"inputs has the eigenvalue -1"),
        (lambda: IIDDesign(3, 8, inputs=((1, 0), (0, 1))), r"inputs has shape \[2, 2\]; allowed: \[3, 3\]"),
        (lambda: IIDDesign(3, 8, task_mean=(1.0,)), r"task_mean has 1 entries; allowed: 3"),
        (lambda: IIDDesign(3, 8).optimal_risk(0), r"n is 0"),
        (lambda: IIDDesign(3, 8).optimal_risk(rank=4), r"rank is 4"),
        (lambda: IIDDesign(3, 8).approximate_risk(), r"design is 'iid-linear'; allowed with approximate_risk"),
        (lambda: RAGDesign(3, 8).optimal_risk(rank=2), r"rank is 2; the design 'rag-linear' allows: None"),
        (lambda: DriftDesign(3, 8, correlation=1.5), r"correlation is 1.5"),
        (lambda: DriftDesign(3, 8, correlation=((1.0,),)), r"correlation has 1 rows; allowed: points \+ 1 = 9"),
        (lambda: DriftDesign(3, 2, row_noise=(1.0,)), r"row_noise has 1 entries; allowed: points \+ 1 = 3"),
        (lambda: DriftDesign(3, 2, row_noise=(1.0, -1, 0)), r"row_noise is -1"),
        (lambda: DESIGNS["path"].optimal_risk(4), r"points is 4; allowed: 3 or fewer"),
        (lambda: EpisodeStream(IIDDesign(), batch=0), r"batch is 0"),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()
