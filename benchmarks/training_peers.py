"""Plain PyTorch models and loops of the same mathematics as ours, which ``bench_training.py`` compares with.

They are written as the papers' own code is written (GPT-2 of ``transformers`` fed embeddings; nanoGPT-shaped blocks;
``transformers``' MambaMixer, the CPU peer of the CUDA-only ``mamba-ssm``), because that code is not ours to ship.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model, LlamaConfig, LlamaForCausalLM, MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from superpose.models import ContinuousLearner

SIDES = ("peer", "superpose", "compiled")


@dataclass
class Run:
    """One training run: its losses, and the CPU seconds from its start to the end of each step."""

    losses: np.ndarray
    ends: np.ndarray

    def per_step(self, warm_up: int = 2) -> float:
        """Mean CPU seconds of a step; the first ones, in which ``compile`` compiles, are left out."""
        return float(self.ends[-1] - self.ends[warm_up - 1]) / (len(self.ends) - warm_up)


class SelfAttention(nn.Module):
    """Causal self-attention through ``scaled_dot_product_attention``."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            t.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for t in self.c_attn(x).split(width, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(batch, length, width))


class Perceptron(nn.Module):
    """Two linear layers around the tanh form of GELU, written out."""

    def __init__(self, width: int):
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        x = 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))
        return self.c_proj(x)


class Residual(nn.Module):
    """``x + inner(norm(x))``."""

    def __init__(self, width: int, inner: nn.Module):
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(width), inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(self.norm(x))


class Stack(nn.Module):
    """Blocks of a layout between learned positions (or none) and a final norm."""

    def __init__(self, layout: Sequence[str], width: int, heads: int, positions: int | None):
        super().__init__()
        self.wpe = None if positions is None else nn.Embedding(positions, width)
        kinds: dict[str, Callable[[], nn.Module]] = {
            "attention": lambda: SelfAttention(width, heads),
            "mlp": lambda: Perceptron(width),
            "mamba": lambda: MambaMixer(MambaConfig(hidden_size=width), 0),
        }
        self.h = nn.ModuleList(Residual(width, kinds[kind]()) for kind in layout)
        self.ln_f = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        if self.wpe is not None:
            x = x + self.wpe(torch.arange(x.shape[1]))
        for block in self.h:
            x = block(x)
        return self.ln_f(x)


class Peer(nn.Module):
    """Read-in, backbone, read-out; every position is predicted and the reads are picked afterwards."""

    def __init__(self, learner: ContinuousLearner, backbone: nn.Module):
        super().__init__()
        self.read_in = nn.Linear(learner.read_in.in_features, learner.spec.width)
        self.backbone = backbone
        self.read_out = nn.Linear(learner.spec.width, learner.read_out.out_features)

    def forward(self, inputs: Tensor, reads: Tensor) -> list[Tensor]:
        hidden = self.backbone(self.read_in(inputs))
        return [self.read_out(hidden)[:, reads]]


class GPT2Peer(Peer):
    """As the MambaFormer code's transformer."""

    def forward(self, inputs: Tensor, reads: Tensor) -> list[Tensor]:
        hidden = self.backbone(inputs_embeds=self.read_in(inputs)).last_hidden_state
        return [self.read_out(hidden)[:, reads]]


class LoopedPeer(Peer):
    """As the looped-transformer code: the whole backbone is the body, only a window of passes carries gradients."""

    def __init__(self, learner: ContinuousLearner, backbone: nn.Module, loops: int, window: int):
        super().__init__(learner, backbone)
        self.loops, self.window = loops, window

    def forward(self, inputs: Tensor, reads: Tensor) -> list[Tensor]:
        embedded = self.read_in(inputs)
        state = torch.zeros_like(embedded)
        outputs = []
        for loop in range(self.loops):
            if loop < self.loops - self.window:
                with torch.no_grad():
                    state = self.backbone(state + embedded)
            else:
                state = self.backbone(state + embedded)
                outputs.append(self.read_out(state)[:, reads])
        return outputs


def stack_peer(learner: ContinuousLearner, loops: int = 1, window: int = 1) -> Peer:
    """A learner's twin of nanoGPT-shaped blocks and MambaMixers, with the learner's weights."""
    spec = learner.spec
    table = spec.max_positions if spec.positions == "learned" else None
    stack = Stack(spec.layout, spec.width, spec.heads, table)
    peer = Peer(learner, stack) if loops == 1 else LoopedPeer(learner, stack, loops, window)
    copy_weights(learner, peer, stack.ln_f, stack.wpe, [tuple(block.children()) for block in stack.h])  # type: ignore[arg-type]
    return peer


def gpt2_peer(learner: ContinuousLearner) -> Peer:
    """A transformer's twin on ``transformers``' GPT2Model, with its weights."""
    spec = learner.spec
    config = GPT2Config(
        n_positions=spec.max_positions,
        n_embd=spec.width,
        n_layer=len(spec.layout) // 2,
        n_head=spec.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        vocab_size=1,
    )
    model = GPT2Model(config)
    peer = GPT2Peer(learner, model)
    blocks: Any = model.h
    inners = [pair for block in blocks for pair in ((block.ln_1, block.attn), (block.ln_2, block.mlp))]
    copy_weights(learner, peer, model.ln_f, model.wpe, inners)
    return peer


@torch.no_grad()
def copy_weights(
    learner: ContinuousLearner,
    peer: nn.Module,
    final: nn.Module,
    table: nn.Embedding | None,
    blocks: Sequence[tuple[nn.Module, nn.Module]],
    read_in: str = "read_in",
    read_out: str = "read_out",
) -> None:
    """Give a peer the weights of a learner.

    Args:
        learner: whose weights.
        peer: who gets them.
        final: its last norm.
        table: its position table, which may be longer than the learner's.
        blocks: its norms and inner layers, in order.
        read_in, read_out: its names for them.
    """
    getattr(peer, read_in).load_state_dict(learner.read_in.state_dict())
    getattr(peer, read_out).load_state_dict(learner.read_out.state_dict())
    final.load_state_dict(learner.backbone.norm.state_dict())
    if table is not None and learner.backbone.positions is not None:
        table.weight[: learner.spec.max_positions] = learner.backbone.positions.weight
    for (norm, inner), own in zip(blocks, learner.backbone.blocks, strict=True):
        norm.load_state_dict(own.norm.state_dict())  # type: ignore[union-attr, operator]
        given: dict[str, Tensor] = own.inner.state_dict()  # type: ignore[union-attr, operator]
        names = {"qkv": "c_attn", "out": "c_proj", "up": "c_fc", "down": "c_proj"}
        for name, value in given.items():
            layer, _, rest = name.partition(".")
            target = inner.get_parameter(".".join(filter(None, (names.get(layer, layer), rest))))
            # GPT2Model keeps its linear layers transposed.
            transposed = type(inner).__module__.startswith("transformers.models.gpt2") and value.ndim == 2
            target.copy_(value.T if transposed else value)


def llama_peer(vocab: int, width: int, heads: int, layers: int, length: int) -> LlamaForCausalLM:
    """A Llama of a decoder's width, depth and heads, its perceptron as large as one of ratio 4."""
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        # Three matrices instead of two.
        intermediate_size=8 * width // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=length,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def plain_loop(
    model: nn.Module,
    loss_of: Callable[[nn.Module, Any], Tensor],
    batches: Callable[[int], Any],
    steps: int,
    lr: float,
    clip: float,
    betas: tuple[float, float] = (0.9, 0.999),
) -> Run:
    """The training step as the papers' loops write it: torch's Adam as it comes, clipping, the loss read."""
    start = time.process_time()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, betas=betas)
    model.train()
    losses, seconds = [], []
    for index in range(steps):
        batch = batches(index)
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.process_time() - start)
    return Run(np.asarray(losses), np.asarray(seconds))
