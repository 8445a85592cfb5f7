"""The papers' own model classes, loaded from a clone that the user has, as peers of ``bench_training.py``.

Their repositories (krafton-ai/mambaformer-icl and Leiay/looped_transformer) train on CUDA only. The model classes run
on a CPU; what only the GPU or other parts of those repositories need is replaced by empty modules while they load,
and Mamba's CUDA kernels by ``transformers``' MambaMixer on the same weights.
"""

import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType
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


class _Empty(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


@contextmanager
def _importing(*folders: Path) -> Iterator[None]:
    """Import from folders first, and forget afterwards what came from there: both repositories have a ``models``."""
    before, path = set(sys.modules), list(sys.path)
    sys.path[:0] = [str(folder) for folder in folders]
    sys.modules.update({name: _Empty(name) for name in EMPTY if name not in sys.modules})
    try:
        # They print while they build.
        with redirect_stdout(StringIO()), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        sys.path[:] = path
        ours = [str(folder.resolve()) for folder in folders]
        for name in set(sys.modules) - before:
            origin = str(getattr(sys.modules[name], "__file__", None) or "")
            if name in EMPTY or name.startswith("mamba_ssm") or any(origin.startswith(folder) for folder in ours):
                del sys.modules[name]


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


class _Mixer(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.inner = MambaMixer(MambaConfig(hidden_size=width), 0)

    def forward(self, x: Tensor, inference_params: None = None) -> Tensor:
        return self.inner(x)


def _mixer(width: int, layer_idx: int | None = None, **_: Any) -> nn.Module:
    return _Mixer(width)
