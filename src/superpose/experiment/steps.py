"""Steps: expensive pure functions whose outputs are memoised under a hash of everything they depend on."""

import contextlib
import contextvars
import functools
import hashlib
import inspect
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar, cast, runtime_checkable

from threadpoolctl import threadpool_limits

from superpose.experiment import codec

P = ParamSpec("P")
R = TypeVar("R")

_current: contextvars.ContextVar["StepContext"] = contextvars.ContextVar("superpose_step")


@runtime_checkable
class Reporter(Protocol):
    """Shows progress to a person."""

    def track(self, items: Iterable[R], description: str, total: int | None = None) -> Iterator[R]:
        """Iterate over ``items``, moving a bar; ``total`` where the items have no length."""
        ...


progress: contextvars.ContextVar[Reporter] = contextvars.ContextVar("superpose_progress")


@dataclass(frozen=True)
class StepInfo:
    """What the decorator knows of a step.

    Attributes:
        name: module and qualified name of the function.
        version: bumped by hand when the function's meaning changes.
        exclusive: a timing step: runs alone, last, and is never reused on another machine.
        label: what the progress bar calls it.
    """

    name: str
    version: str
    exclusive: bool
    label: str


@dataclass(frozen=True)
class StepContext:
    """Where a running step may keep checkpoints, and on what it runs.

    Attributes:
        device: device type, for example ``"cpu"`` or ``"cuda"``.
        threads: number of intra-op threads.
        folder: a folder of this step's own; what stands there survives a kill and is gone once the step is done. A
            checkpoint is written under another name and renamed, since a kill may come in the middle.
    """

    device: str
    threads: int
    folder: Path


def step(*, version: str, exclusive: bool = False, label: str = "") -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a module-level function as a step.

    The function must be pure: all randomness from explicit seeds among its arguments, arguments plain data
    (config values, seeds, paths, model references), and the same output bitwise on CPU for the same arguments.
    Called directly it is an ordinary function; through ``run.step`` or ``run.map`` it is memoised. A step that can
    compute in several dtypes takes the dtype's name as an argument, so that its key holds it.

    Args:
        version: bump it whenever the function's meaning changes; cached outputs of older versions are not read.
        exclusive: a timing step: runs alone and last, exempt from determinism, its key holds the machine.
        label: what the progress bar calls it; default the function's name.

    Raises:
        TypeError: the function is nested or a lambda; its name would not say which function it is.
    """

    def mark(fn: Callable[P, R]) -> Callable[P, R]:
        if "<" in fn.__qualname__:
            raise TypeError(f"{fn.__qualname__!r} cannot be a step; allowed: functions at the top level of a module")
        info = StepInfo(
            name=f"{fn.__module__}:{fn.__qualname__}",
            version=version,
            exclusive=exclusive,
            label=label or fn.__name__.replace("_", " "),
        )
        cast(Any, fn).step_info = info
        return fn

    return mark


def info_of(fn: Callable[..., Any]) -> StepInfo:
    """The step's description.

    Raises:
        TypeError: the function is not decorated with :func:`step`.
    """
    # Other decorators may stand above @step or below it.
    info = getattr(inspect.unwrap(fn, stop=lambda f: hasattr(f, "step_info")), "step_info", None)
    if not isinstance(info, StepInfo):
        raise TypeError(f"{getattr(fn, '__qualname__', fn)!r} is not a step; decorate it with @step(version=...)")
    return info


def current() -> StepContext:
    """The context of the step that is running here, for its device, threads and checkpoint folder.

    Raises:
        LookupError: called outside a step.
    """
    return _current.get()


@dataclass(frozen=True)
class StepCall:
    """One step with its arguments: what an engine maps. Its ``key`` names its output in the cache.

    Raises:
        TypeError: arguments that the function does not take, or that are not plain data.
        ValueError: fewer than one thread.
    """

    fn: Callable[..., Any]
    arguments: dict[str, Any]
    device: str
    threads: int
    work: Path
    key: str = field(init=False)
    info: StepInfo = field(init=False)

    def __post_init__(self) -> None:
        info = info_of(self.fn)
        if self.threads < 1:
            raise ValueError(f"step {info.name}: threads is {self.threads}; allowed: 1 or more")
        try:
            bound = inspect.signature(self.fn).bind(**self.arguments)
        except TypeError as error:
            raise TypeError(f"step {info.name}: {error}") from error
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            try:
                codec.canonical(value)
            except TypeError as error:
                raise TypeError(f"step {info.name}: argument {name!r}: {error}") from error
        identity = {
            "name": info.name,
            "version": info.version,
            "arguments": dict(bound.arguments),
            "device": self.device,
            "threads": self.threads,
            "machine": machine(self.device) if info.exclusive else None,
        }
        digest = hashlib.sha256(codec.canonical(identity).encode()).hexdigest()
        object.__setattr__(self, "info", info)
        object.__setattr__(self, "key", f"{self.fn.__name__}-{digest[:32]}")

    def execute(self) -> Any:
        """Run the function under its thread count and context, in whichever process this is.

        Raises:
            TypeError: the output cannot be stored.
        """
        folder = self.work / self.key
        folder.mkdir(parents=True, exist_ok=True)
        token = _current.set(StepContext(self.device, self.threads, folder))
        try:
            with _threads(self.threads):
                output = self.fn(**self.arguments)
            codec.check(output)
            return output
        finally:
            _current.reset(token)


@functools.cache
def machine(device: str) -> str:
    """A fingerprint of this machine for timings: processor, cores, GPU, operating system, library versions."""
    from superpose.experiment.environment import environment

    env = environment(device)
    return codec.canonical({**env.model_dump(), "node": hashlib.sha256(platform.node().encode()).hexdigest()[:16]})


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else None
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    variables = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(variables, str(count)))  # for libraries that the step itself is first to load
    try:
        if torch is not None:
            torch.set_num_threads(count)
        with threadpool_limits(count):
            yield
    finally:
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if torch is not None and before is not None:
            torch.set_num_threads(before)


def track(items: Iterable[R], description: str, total: int | None = None) -> Iterator[R]:
    """Iterate over the inner loop of a step, showing its progress where the driver shows any.

    Silent in worker processes: there the driver's bar over whole steps is the one that moves.

    Args:
        items: what the loop runs over.
        description: what the bar calls it.
        total: number of items, where they have no length.
    """
    reporter = progress.get(None)
    if reporter is None:
        yield from items
        return
    yield from reporter.track(items, description, total)


@contextlib.contextmanager
def tracked(total: int, description: str) -> Iterator[Callable[[int, int], None]]:
    """:func:`track` for work that reports by calling back, as a training does: yields ``progress(done, total)``.

    Args:
        total: calls until the bar is full.
        description: what the bar calls it.
    """
    bar = track(range(total), description)

    def move(done: int, total: int) -> None:
        next(bar, None)

    try:
        yield move
    finally:
        # A bar that is left half-way (a resumed training makes fewer calls) would stay on the screen.
        for _ in bar:
            pass
