"""The papers' own code, loaded from a clone that the user has: the peers of two benchmarks.

Their repositories (krafton-ai/mambaformer-icl and Leiay/looped_transformer) train on CUDA only. The model classes, with
which ``bench_training.py`` compares, run on a CPU; what only the GPU or other parts of those repositories need is
replaced by empty modules while they load, and Mamba's CUDA kernels by ``transformers``' MambaMixer. The training
loops, with which ``bench_official_loops.py`` compares, have their CUDA devices rewritten while they load, and what
they log to replaced by modules that do nothing.
"""

import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from io import StringIO
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from torch import Tensor, nn
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from superpose.errors import InputError
from superpose.models import ContinuousLearner
from training_peers import copy_weights

# The hybrid's attention has this many heads whatever its configuration says.
HYBRID_HEADS = 8
EMPTY = (
    "xgboost",
    "einops",
    "causal_conv1d",
    "mamba_ssm.ops.selective_scan_interface",
    "mamba_ssm.models.config_mamba",
    "mamba_ssm.utils.generation",
    "mamba_ssm.utils.hf",
)
# Logging, parsing of options and evaluation: the loops are compared without them.
SILENT = ("wandb", "quinine", "torch.utils.tensorboard", "schema", "eval")


class _Empty(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Nothing:
    """Takes every call and does nothing."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __call__(self, *_: Any, **__: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return _Nothing()


class _Silent(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing


class _OnCpu(SourceFileLoader):
    """Loads a file with its CUDA devices rewritten, and leaves no byte code of that behind."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        text = Path(path).read_text(encoding="utf-8").replace(".cuda()", ".cpu()").replace('"cuda"', '"cpu"')
        return self.source_to_code(text.encode(), path)


class _OnCpuFinder(MetaPathFinder):
    def __init__(self, folders: tuple[Path, ...]):
        self.folders = [str(folder) for folder in folders]

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, self.folders if path is None else path, target)
        origin = "" if spec is None else str(spec.origin)
        if spec is None or not origin.endswith(".py") or not any(origin.startswith(f) for f in self.folders):
            return None
        spec.loader = _OnCpu(fullname, origin)
        return spec


@contextmanager
def _importing(*folders: Path, loops: bool = False) -> Iterator[None]:
    """Import from folders first, and forget afterwards what came from there: both repositories have a ``models``.

    With ``loops``, their CUDA devices are rewritten and what they log to does nothing.
    """
    replaced = {name: sys.modules.pop(name) for name in SILENT if loops and name in sys.modules}
    before, path = set(sys.modules), list(sys.path)
    sys.path[:0] = [str(folder) for folder in folders]
    sys.modules.update({name: _Empty(name) for name in EMPTY if name not in sys.modules})
    finder = _OnCpuFinder(folders)
    if loops:
        sys.modules.update({name: _Silent(name) for name in SILENT})
        sys.meta_path.insert(0, finder)
    try:
        # They print while they build.
        with redirect_stdout(StringIO()), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        sys.path[:] = path
        if loops:
            sys.meta_path.remove(finder)
        ours = [str(folder.resolve()) for folder in folders]
        for name in set(sys.modules) - before:
            origin = str(getattr(sys.modules[name], "__file__", None) or "")
            stands_in = name in EMPTY or (loops and name in SILENT)
            if stands_in or name.startswith("mamba_ssm") or any(origin.startswith(folder) for folder in ours):
                del sys.modules[name]
        sys.modules.update(replaced)


class Official(nn.Module):
    """A model of the papers' under the call of ``training_peers.Peer``."""

    def __init__(self, model: nn.Module, pads_labels: bool, loops: tuple[int, int] | None = None):
        super().__init__()
        self.model, self.pads_labels, self.loops = model, pads_labels, loops

    def forward(self, inputs: Tensor, reads: Tensor) -> list[Tensor]:
        xs, ys = inputs[:, ::2], inputs[:, 1::2]
        if self.pads_labels:
            return [self.model(xs, ys).unsqueeze(-1)]
        if self.loops is None:
            return [self.model(xs, ys[..., 0]).unsqueeze(-1)]
        start, end = self.loops
        return [prediction.unsqueeze(-1) for prediction in self.model(xs, ys[..., 0], start, end)]


def official_peer(clone: Path, learner: ContinuousLearner, loops: int, window: int) -> Official | None:
    """The repository's own model for a learner, with the learner's weights; None where it has no such model.

    Args:
        clone: one of the two repositories.
        learner: of one of the architectures ``transformer``, ``mambaformer``, ``looped``.
        loops, window: of a looped one.

    Raises:
        InputError: the folder is no clone of either.
    """
    points = learner.spec.max_positions // 2
    sizes: dict[str, Any] = {"n_dims": learner.read_in.in_features, "n_positions": points, "n_embd": learner.spec.width}
    depth = len(learner.spec.layout)
    if (clone / "scripts" / "nano_gpt.py").is_file():
        if learner.spec.name not in ("transformer", "looped"):
            return None
        with _importing(clone / "scripts"):
            models = importlib.import_module("models")
            looped = learner.spec.name == "looped"
            kind = models.TransformerModelLooped if looped else models.TransformerModel
            model = kind(**sizes, n_layer=depth // 2, n_head=learner.spec.heads)
        model.print_flag = True  # else it prints in its first passes
        body = model._backbone.transformer
        inners = [pair for block in body.h for pair in ((block.ln_1, block.attn), (block.ln_2, block.mlp))]
        copy_weights(learner, model, body.ln_f, body.wpe, inners, "_read_in", "_read_out")
        return Official(model, False, (max(0, loops - window), loops) if looped else None)
    if not (clone / "mamba" / "mamba_ssm").is_dir():
        raise InputError(f"--official is {clone}; allowed: a clone of mambaformer-icl or of looped_transformer")
    if learner.spec.name not in ("transformer", "mambaformer"):
        return None
    with _importing(clone / "src", clone / "mamba"):
        hybrid = importlib.import_module("mamba_ssm.models.mixer_seq_simple")
        setattr(hybrid, "Mamba", _mixer)  # noqa: B010
        models = importlib.import_module("models")
        if learner.spec.name == "transformer":
            model = models.TransformerModel(**sizes, n_layer=depth // 2, n_head=learner.spec.heads)
            body = model._backbone
            inners = [pair for block in body.h for pair in ((block.ln_1, block.attn), (block.ln_2, block.mlp))]
            copy_weights(learner, model, body.ln_f, body.wpe, inners, "_read_in", "_read_out")
        else:
            model = models.MambaMixerModel(**sizes, n_layer=depth - 1, mixed_attn="mambaformer")
            body = model._backbone
            inners = [
                (block.norm, block.mixer.inner if hasattr(block.mixer, "inner") else block.mixer)
                for block in body.layers
            ]
            copy_weights(learner, model, body.norm_f, None, inners, "_read_in", "_read_out")
    return Official(model, True)


def looped_loop(clone: Path) -> ModuleType:
    """The ``train`` module of a clone of looped_transformer, on the CPU and without logging.

    Raises:
        InputError: the folder is no clone of it.
    """
    scripts = clone.resolve() / "scripts"
    if not (scripts / "train.py").is_file() or not (scripts / "nano_gpt.py").is_file():
        raise InputError(f"--looped is {clone}; allowed: a clone of Leiay/looped_transformer")
    with _importing(scripts, loops=True):
        return importlib.import_module("train")


def mambaformer_loop(clone: Path) -> ModuleType:
    """The ``train`` module of a clone of mambaformer-icl, on the CPU, without logging, with MambaMixers.

    Raises:
        InputError: the folder is no clone of it.
    """
    source, kernels = clone.resolve() / "src", clone.resolve() / "mamba"
    if not (source / "train.py").is_file() or not (kernels / "mamba_ssm").is_dir():
        raise InputError(f"--mambaformer is {clone}; allowed: a clone of krafton-ai/mambaformer-icl")
    with _importing(source, kernels, loops=True):
        setattr(importlib.import_module("mamba_ssm.models.mixer_seq_simple"), "Mamba", _mixer)  # noqa: B010
        return importlib.import_module("train")


class _Mixer(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.inner = MambaMixer(MambaConfig(hidden_size=width), 0)
        # The mark by which that code spares the step-size bias when it zeroes those of linear layers.
        setattr(self.inner.dt_proj.bias, "_no_reinit", True)  # noqa: B010

    def forward(self, x: Tensor, inference_params: None = None) -> Tensor:
        return self.inner(x)


def _mixer(width: int, layer_idx: int | None = None, **_: Any) -> nn.Module:
    return _Mixer(width)
