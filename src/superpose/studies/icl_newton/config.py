"""What is measured, and with how much of it."""

from typing import Annotated

from pydantic import Field

from superpose.experiment import StudyConfig

Count = Annotated[int, Field(ge=1)]
Above0 = Annotated[float, Field(gt=0)]


class Config(StudyConfig):
    """What is measured, and with how much of it.

    Attributes:
        inverse_dims: sizes of the matrices of N1.
        matrices: matrices per size (N1) and per condition number (N2).
        kappas: condition numbers of N2, on 8 x 8 matrices.
        dims, points, mus: cells of N3 and N5.
        pieces: pieces of the interpolated squares, each four times the one before.
        prompts: prompts per cell, and in N4 and N6.
        depth_mus: penalties of N4; the last two are those on which gradient descent is judged.
        noisy_mus: those of them on which prompts with noisy labels are counted too.
        depth_steps: most gradient steps of N4.
        regression_kappas: condition numbers of N6; up to 100 they are judged.
        depths: layers of the trained transformers.
        norms: normalisation of the trained transformers.
        width, heads: of the trained transformers.
        train_steps, train_batch, rate: of the training, with Adam.
        trained_prompts: prompts on which trained transformers and references are compared.
        seeds: trained transformers per cell.
    """

    inverse_dims: tuple[Annotated[int, Field(ge=2)], ...] = tuple(range(2, 33))
    matrices: Count = 20
    kappas: tuple[Annotated[float, Field(ge=10)], ...] = (10.0, 31.6, 100.0, 316.0, 1000.0, 3160.0, 10000.0)
    dims: tuple[Count, ...] = (3, 5, 10)
    points: tuple[Count, ...] = (20, 40, 100)
    mus: tuple[Above0, ...] = (0.1, 0.05, 0.01)
    pieces: tuple[Annotated[int, Field(ge=2, multiple_of=2)], ...] = (50, 200, 800)
    prompts: Annotated[int, Field(ge=2)] = 10
    depth_mus: tuple[Above0, ...] = (0.1, 0.01, 0.001, 0.0001)
    noisy_mus: tuple[Above0, ...] = (0.1, 0.01, 0.001, 0.0001)
    depth_steps: Count = 8000
    regression_kappas: tuple[Annotated[float, Field(gt=1)], ...] = (10.0, 50.0, 100.0, 150.0, 200.0, 1000.0)
    depths: tuple[Count, ...] = (1, 2, 3, 4)
    norms: tuple[str, ...] = ("none", "layer")
    width: Annotated[int, Field(ge=2)] = 16
    heads: Count = 2
    train_steps: Count = 1200
    train_batch: Count = 64
    rate: Above0 = 3e-3
    trained_prompts: Annotated[int, Field(ge=2)] = 4000


SMOKE = {
    "inverse_dims": (2, 5),
    "matrices": 3,
    "kappas": (10.0, 1000.0),
    "dims": (5,),
    "points": (40,),
    "mus": (0.1, 0.01),
    "pieces": (50, 200),
    "prompts": 2,
    "depth_mus": (0.1, 0.001, 0.0001),
    "noisy_mus": (0.1,),
    "depth_steps": 400,
    "depths": (1, 2),
    "train_steps": 3,
    "train_batch": 4,
    "trained_prompts": 50,
    "seeds": 1,
}

GPU = {
    "matrices": 100,
    "dims": (3, 5, 10, 20),
    "points": (20, 40, 100, 400),
    "mus": (0.1, 0.05, 0.01, 0.003),
    "pieces": (50, 200, 800, 3200),
    "prompts": 20,
    "depths": (1, 2, 3, 4, 5, 6),
    "width": 32,
    "heads": 4,
    "train_steps": 20_000,
    "train_batch": 256,
    "rate": 1e-3,
    "trained_prompts": 20_000,
    "seeds": 5,
}
