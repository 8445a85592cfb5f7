"""The registered tasks by name. A registered task is tested, and measured by the atlas, without further lines."""

from dataclasses import fields
from typing import Any, TypeVar

from superpose.errors import InputError, choose

from .chain import ChainOfThought
from .episode import Task
from .functions import (
    DecisionTree,
    LinearRegression,
    LogisticRegression,
    NoisyLinearRegression,
    QuadraticRegression,
    SparseLinearRegression,
    TwoLayerNetwork,
)
from .groups import TaskGroups
from .linear_designs import AlignedDesign, IIDDesign, RAGDesign
from .linear_drift import DriftDesign
from .lines import PlusConstant, RetrieveLetters
from .markov import MarkovChain
from .outliers import ManyOutliers, OrthogonalOutliers
from .parity import SparseParity
from .retrieval import VectorMQAR, VectorRetrieval
from .symbols import AssociativeRecall, Copying

TASKS: dict[str, type[Any]] = {}
_Kind = TypeVar("_Kind", bound=type[Task])


def register_task(cls: _Kind) -> _Kind:
    """Add a task, a frozen dataclass, to the registry under its `name`; usable as a decorator.

    Raises:
        InputError: another task has this name.
    """
    if TASKS.setdefault(cls.name, cls) is not cls:
        raise InputError(f"name is {cls.name!r}; allowed: a name that no task has yet")
    return cls


def task(name: str, *, preset: str = "laptop", **config: Any) -> Any:
    """Return a task by name.

    Args:
        name: one of `TASKS`.
        preset: "laptop" for the defaults, "paper" for the paper's sizes.
        config: fields of the task, which go before the preset's.

    Raises:
        InputError: an unknown name, preset or field, or a value that the task does not allow.
    """
    choose("task", name, TASKS)
    choose("preset", preset, ("laptop", "paper"))
    cls = TASKS[name]
    known = [field.name for field in fields(cls)]
    for argument in config:
        if argument not in known:
            raise InputError(f"argument is {argument!r}; the task {name!r} allows: {', '.join(known)}")
    return cls(**{**(cls.paper if preset == "paper" else {}), **config})


for _task in (
    LinearRegression,
    NoisyLinearRegression,
    SparseLinearRegression,
    QuadraticRegression,
    TwoLayerNetwork,
    DecisionTree,
    LogisticRegression,
    ManyOutliers,
    OrthogonalOutliers,
    SparseParity,
    VectorRetrieval,
    VectorMQAR,
    ChainOfThought,
    TaskGroups,
    Copying,
    AssociativeRecall,
    RetrieveLetters,
    PlusConstant,
    IIDDesign,
    RAGDesign,
    AlignedDesign,
    DriftDesign,
    MarkovChain,
):
    register_task(_task)
