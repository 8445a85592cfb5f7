"""A three-layer transformer with written-down weights that performs K tasks in superposition.

The expressivity theorem of arXiv 2410.05603 says that seven layers, K heads per layer and O(d + log(mn)) dimensions
are enough. The paper's proof is not followed here: this is a construction of our own that satisfies the statement
with three layers, so that the claim can be checked by running it.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from superpose.errors import InputError, choose
from superpose.models.constructed.symbol_tasks import SymbolTask, check_symbols, check_tasks, task_answers

# Powers of two, and codes of +-1: every score that must cancel is an integer in float32 too.
SHARPNESS = 64.0
PLACE_PENALTY = 2.0
# Logit that stands for a weight of exactly 0 or 1: sigmoid(-40) is 4e-18.
LARGEST_GATE = 40.0
MOST_GATE_UNITS = 65_536


class SuperpositionBlock(nn.Module):
    """Causal softmax attention with explicit per-head matrices, then a ReLU MLP, both added to the residual stream.

    Attributes:
        q_proj, k_proj: ``[heads, width, head]``; scores are ``<q, k>``, not rescaled.
        v_proj, o_proj: ``[heads, width, value]`` and ``[heads, value, width]``.
        up, up_bias, down, down_bias: the MLP ``relu(x @ up + up_bias) @ down + down_bias``.
    """

    def __init__(
        self,
        q_proj: Float[Tensor, "heads width head"],
        k_proj: Float[Tensor, "heads width head"],
        v_proj: Float[Tensor, "heads width value"],
        o_proj: Float[Tensor, "heads value width"],
        up: Float[Tensor, "width hidden"],
        up_bias: Float[Tensor, " hidden"],
        down: Float[Tensor, "hidden width"],
        down_bias: Float[Tensor, " width"],
    ):
        super().__init__()
        self.q_proj = nn.Parameter(q_proj, requires_grad=False)
        self.k_proj = nn.Parameter(k_proj, requires_grad=False)
        self.v_proj = nn.Parameter(v_proj, requires_grad=False)
        self.o_proj = nn.Parameter(o_proj, requires_grad=False)
        self.up = nn.Parameter(up, requires_grad=False)
        self.up_bias = nn.Parameter(up_bias, requires_grad=False)
        self.down = nn.Parameter(down, requires_grad=False)
        self.down_bias = nn.Parameter(down_bias, requires_grad=False)

    @property
    def num_heads(self) -> int:
        """Number of attention heads."""
        return len(self.q_proj)

    def forward(self, x: Float[Tensor, "batch pos width"]) -> Float[Tensor, "batch pos width"]:
        """Return the residual stream after the block."""
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        mixed = torch.zeros_like(x)
        # One head at a time: the scores of all of them together would be the largest tensor by far.
        for q, k, v, o in zip(self.q_proj, self.k_proj, self.v_proj, self.o_proj, strict=True):
            scores = (x @ q) @ (x @ k).mT
            attention = scores.masked_fill_(~causal, -torch.inf).softmax(-1)
            mixed += attention @ (x @ v) @ o
        x = x + mixed
        return x + torch.relu(x @ self.up + self.up_bias) @ self.down + self.down_bias


class SuperpositionTransformer(nn.Module):
    """A transformer of three layers with explicit weights that weights K tasks by their demonstrations.

    Its input is a sink token, m blocks of q operands, "=" and a label (n = q + 2 tokens), and a query block
    without label. Its width is ``2d + 3K + ceil(log2 n) + ceil(log2(m + 2)) + 5``, which is O(d + log(mn)) for
    K <= d; the layers have K, 1 and K heads. Layer 1 tests in its softmax which tasks explain each demonstration,
    layer 2 counts, layer 3 answers the query with every task, its attention weights being the shares.
    Statement: arXiv 2410.05603, the expressivity theorem; the weights are our own.

    Build one with `SuperpositionTransformer.build`.
    """

    def __init__(self, plan: "_Plan", blocks: Sequence[SuperpositionBlock]):
        super().__init__()
        self.plan = plan
        self.layers = nn.ModuleList(blocks)

    @classmethod
    def build(
        cls,
        tasks: Sequence[SymbolTask],
        demonstrations: int,
        operands: int,
        symbols: int,
        dtype: torch.dtype = torch.float64,
        ambiguous: Literal["error", "share"] = "error",
    ) -> "SuperpositionTransformer":
        """Write down the weights.

        Args:
            tasks: K tasks over the d symbols.
            demonstrations: demonstrations per prompt, m.
            operands: operands per demonstration, q.
            symbols: number of symbols, d.
            dtype: float64 (errors near 1e-13) or float32 (near 1e-6).
            ambiguous: what happens to demonstrations that several tasks explain. "error" refuses prompts that have
                them; "share" divides each among its tasks, which takes ``lcm(1..K)`` times as many hidden units in
                the second MLP because the possible weights lie that much closer.

        Raises:
            InputError: a slot outside the operands, a table of the wrong length, sizes below 1, another dtype, or
                "share" with so many tasks and demonstrations that the second MLP would pass 65536 units.
        """
        choose("dtype", dtype, (torch.float64, torch.float32))
        choose("ambiguous", ambiguous, ("error", "share"))
        for name, value in (("demonstrations", demonstrations), ("symbols", symbols)):
            if value < 1:
                raise InputError(f"{name} is {value}; allowed: 1 or more")
        found = check_tasks(tasks, operands)
        if found != symbols:
            raise InputError(f"tasks have tables of {found} symbols; symbols is {symbols}")
        plan = _Plan(tuple(tasks), demonstrations, operands, symbols, ambiguous)
        if plan.grid * len(plan.tasks) > MOST_GATE_UNITS:
            raise InputError(
                f"ambiguous is 'share' with {len(plan.tasks)} tasks and {demonstrations} demonstrations, which takes "
                f"{plan.grid * len(plan.tasks)} hidden units (at most {MOST_GATE_UNITS}); use fewer, or 'error'"
            )
        return cls(plan, [plan.explain(), plan.count(), plan.answer()]).to(dtype)

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return next(self.parameters()).shape[1]

    @property
    def num_layers(self) -> int:
        """Number of blocks."""
        return len(self.layers)

    @property
    def heads_per_layer(self) -> tuple[int, ...]:
        """Attention heads of each block."""
        return tuple(cast(SuperpositionBlock, block).num_heads for block in self.layers)

    def embed(
        self,
        operands: Int[Tensor, "batch m q"],
        labels: Int[Tensor, "batch m"],
        query: Int[Tensor, "batch q"],
    ) -> Float[Tensor, "batch pos width"]:
        """Return the token embeddings: sink, m blocks of operands, "=" and label, the query's operands and "=".

        Raises:
            InputError: other sizes than the model was built for, or a symbol out of range.
        """
        plan = self.plan
        batch = len(query)
        for name, value, shape in (
            ("operands", operands, (batch, plan.m, plan.q)),
            ("labels", labels, (batch, plan.m)),
            ("query", query, (batch, plan.q)),
        ):
            if tuple(value.shape) != shape:
                raise InputError(f"{name} has shape {tuple(value.shape)}; this model was built for {shape}")
            check_symbols(name, value, plan.d)
        weights = next(self.parameters())
        x = torch.zeros(batch, plan.m + 1, plan.q + 2, plan.width, dtype=weights.dtype, device=weights.device)
        content = x[..., plan.content]
        content[:, : plan.m, : plan.q] = nn.functional.one_hot(operands, plan.d).to(x)
        content[:, : plan.m, -1] = nn.functional.one_hot(labels, plan.d).to(x)
        content[:, plan.m, : plan.q] = nn.functional.one_hot(query, plan.d).to(x)
        x[:, :, : plan.q, plan.op] = 1
        x[:, :, plan.q, plan.eq] = 1
        x[:, :, plan.q + 1, plan.label] = 1
        x[..., plan.slot] = _codes(plan.q + 2, plan.slot_bits).to(x)
        x[..., plan.block] = _codes(plan.m + 2, plan.block_bits)[1:, None].to(x)
        sink = torch.zeros(batch, 1, plan.width, dtype=x.dtype, device=x.device)
        sink[..., plan.sink] = 1
        # The query block has no label token: its last position is "=".
        x = torch.cat([sink, x.flatten(1, 2)[:, :-1]], dim=1)
        x[..., plan.one] = 1
        return x

    def forward(
        self,
        operands: Int[Tensor, "batch m q"],
        labels: Int[Tensor, "batch m"],
        query: Int[Tensor, "batch q"],
    ) -> Float[Tensor, "batch d"]:
        """Return the distribution over the d symbols after the query, one row per prompt.

        Raises:
            InputError: wrong sizes, a symbol out of range, or a demonstration that no task explains, or several
                where the model was built with ``ambiguous="error"``.
        """
        x = self.embed(operands, labels, query)
        explained = (task_answers(self.plan.tasks, operands) == labels[..., None]).sum(-1)
        wrong = (explained == 0) if self.plan.ambiguous == "share" else (explained != 1)
        if bool(wrong.any()):
            row, position = wrong.nonzero()[0].tolist()
            raise InputError(
                f"labels[{row}, {position}] is explained by {int(explained[row, position])} of the tasks; it must be "
                + ("at least 1" if self.plan.ambiguous == "share" else "exactly 1 (or build with ambiguous='share')")
            )
        for block in self.layers:
            x = block(x)
        return x[:, -1, self.plan.output]


class _Plan:
    """Where everything stands in the residual stream, and the three blocks written on it."""

    def __init__(self, tasks: tuple[SymbolTask, ...], m: int, q: int, d: int, ambiguous: str):
        self.tasks, self.m, self.q, self.d, self.ambiguous = tasks, m, q, d, ambiguous
        self.slot_bits = math.ceil(math.log2(q + 2))
        self.block_bits = math.ceil(math.log2(m + 2))
        self.width = 0
        k = len(tasks)
        self.content = self._take(d)
        self.op, self.eq, self.label, self.sink, self.one = (self._take(1).start for _ in range(5))
        self.slot, self.block = self._take(self.slot_bits), self._take(self.block_bits)
        self.flags, self.weights, self.gates, self.output = (self._take(size) for size in (k, k, k, d))

    def _take(self, size: int) -> slice:
        start, self.width = self.width, self.width + size
        return slice(start, self.width)

    @property
    def grid(self) -> int:
        """Denominator of the weights that a task can have."""
        return self.m * (math.lcm(*range(1, len(self.tasks) + 1)) if self.ambiguous == "share" else 1)

    def explain(self) -> SuperpositionBlock:
        """Layer 1: a label token's flag i becomes 1 where task i explains its demonstration (its share of it)."""
        k, d = len(self.tasks), self.d
        q_proj, k_proj = self._look_at_operand(extra=d + 1)
        v_proj, o_proj = self._zeros(k, self.width, 1), self._zeros(k, 1, self.width)
        for i, task in enumerate(self.tasks):
            # The label pulled back through the task: 1 at each symbol that the task maps to it.
            q_proj[i, self.content, :d] = SHARPNESS * _matrix(task)
            k_proj[i, self.content, :d] = torch.eye(d, dtype=torch.float64)
            # The sink scores half a match: less than an operand that explains the label, more than one that does not.
            q_proj[i, self.one, d] = SHARPNESS / 2
            k_proj[i, self.sink, d] = 1
            v_proj[i, self.op, 0] = 1
            o_proj[i, 0, self.flags.start + i] = 1
        # The flags found at other tokens mean nothing; the MLP removes them, and shares out those of labels. With
        # u = (number of flags) + K * flag - 2K * (1 - label), a label's flag is set iff u > K; u - K then counts them.
        shares = [1 / s if self.ambiguous == "share" else 1.0 for s in range(1, k + 1)]
        slopes = [after - before for before, after in pairwise([0.0, *shares])]
        up, up_bias, down, down_bias = self._mlp(k + k * k)
        for i in range(k):
            flag = self.flags.start + i
            up[flag, i], down[i, flag] = 1, -1
            for s in range(k):
                unit = k + i * k + s
                up[self.flags, unit] = 1
                up[flag, unit] += k
                up[self.label, unit] = 2 * k
                up_bias[unit] = -3 * k - s
                down[unit, flag] = slopes[s] - (slopes[s - 1] if s else 0)
        return SuperpositionBlock(q_proj, k_proj, v_proj, o_proj, up, up_bias, down, down_bias)

    def count(self) -> SuperpositionBlock:
        """Layer 2: one head averages the flags over the labels into weights; the MLP turns weights into logits."""
        k, grid = len(self.tasks), self.grid
        q_proj, k_proj = self._zeros(1, self.width, 1), self._zeros(1, self.width, 1)
        q_proj[0, self.one, 0], k_proj[0, self.label, 0] = SHARPNESS, 1
        v_proj, o_proj = self._zeros(1, self.width, k), self._zeros(1, k, self.width)
        v_proj[0, self.flags] = torch.eye(k, dtype=torch.float64)
        o_proj[0, :, self.weights] = torch.eye(k, dtype=torch.float64)
        # Linear interpolation of the logit through the weights that can occur, by hinges that open outwards from
        # the middle: their terms have one sign on each side, so nothing cancels and float32 is enough.
        points = torch.arange(grid + 1, dtype=torch.float64) / grid
        logits = torch.logit(points).clamp(-LARGEST_GATE, LARGEST_GATE)
        slopes = logits.diff() * grid
        middle = grid // 2
        rising, falling = slopes[middle:], slopes[:middle].flip(0)
        steps = torch.cat([rising.diff(prepend=rising.new_zeros(1)), -falling.diff(prepend=falling.new_zeros(1))])
        knots = torch.cat([points[middle:-1], points[1 : middle + 1].flip(0)])
        signs = torch.where(torch.arange(grid) < len(rising), 1.0, -1.0).double()
        up, up_bias, down, down_bias = self._mlp(k * grid)
        for i in range(k):
            units = slice(i * grid, (i + 1) * grid)
            up[self.weights.start + i, units] = signs
            up_bias[units] = -signs * knots
            down[units, self.gates.start + i] = steps
            down_bias[self.gates.start + i] = logits[middle]
        return SuperpositionBlock(q_proj, k_proj, v_proj, o_proj, up, up_bias, down, down_bias)

    def answer(self) -> SuperpositionBlock:
        """Layer 3: head i divides its attention between the query's operand and the sink as weight i to 1 minus it."""
        k, d = len(self.tasks), self.d
        q_proj, k_proj = self._look_at_operand(extra=1)
        v_proj, o_proj = self._zeros(k, self.width, d), self._zeros(k, d, self.width)
        for i, task in enumerate(self.tasks):
            # The gate stands on the sink's side, where no other term adds to it: its last digits survive.
            q_proj[i, self.gates.start + i, 0] = -1
            k_proj[i, self.sink, 0] = 1
            v_proj[i, self.content] = _matrix(task).mT
            o_proj[i, :, self.output] = torch.eye(d, dtype=torch.float64)
        up, up_bias, down, down_bias = self._mlp(0)
        return SuperpositionBlock(q_proj, k_proj, v_proj, o_proj, up, up_bias, down, down_bias)

    def _look_at_operand(self, extra: int) -> tuple[Tensor, Tensor]:
        """Queries and keys, one head per task, that score 0 at the task's operand of one's own block and at the sink.

        Any other token scores -2 * PLACE_PENALTY * SHARPNESS or less. The heads' first ``extra`` dimensions are free.
        """
        k, bits = len(self.tasks), self.slot_bits + self.block_bits
        place = slice(extra, extra + bits)
        q_proj, k_proj = (self._zeros(k, self.width, extra + bits + 1) for _ in range(2))
        codes = _codes(self.q + 2, self.slot_bits)
        for i, task in enumerate(self.tasks):
            strength = PLACE_PENALTY * SHARPNESS
            q_proj[i, self.one, extra : extra + self.slot_bits] = strength * codes[task.slot]
            q_proj[i, self.block, extra + self.slot_bits : extra + bits] = (
                strength * torch.eye(self.block_bits).double()
            )
            k_proj[i, [*range(self.slot.start, self.slot.stop), *range(self.block.start, self.block.stop)], place] = (
                torch.eye(bits, dtype=torch.float64)
            )
            q_proj[i, self.one, -1] = -strength * bits
            k_proj[i, self.op, -1] = 1
            k_proj[i, [self.eq, self.label], -1] = 3
        return q_proj, k_proj

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.float64)

    def _mlp(self, hidden: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return (
            self._zeros(self.width, hidden),
            self._zeros(hidden),
            self._zeros(hidden, self.width),
            self._zeros(self.width),
        )


def _codes(count: int, bits: int) -> Float[Tensor, "count bits"]:
    """Binary numbers in -1 and 1: the inner product of two is `bits` if they are equal, at most `bits` - 2 if not."""
    return ((torch.arange(count)[:, None] >> torch.arange(bits)) & 1).double() * 2 - 1


def _matrix(task: SymbolTask) -> Float[Tensor, "d d"]:
    return nn.functional.one_hot(torch.tensor(task.table), len(task.table)).double().mT
