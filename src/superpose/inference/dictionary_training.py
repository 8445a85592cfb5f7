"""Training of Lexico's dictionaries: all layers' key and value dictionaries side by side."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from superpose.errors import InputError, choose
from superpose.inference.dictionaries import Dictionaries, TokenBatch, check_atoms, collect_kv, fingerprint
from superpose.inference.omp import omp_stack
from superpose.models.kv_states import kv_sizes
from superpose.training import History, Optimiser, Schedule, optimise, seeded

INITS = ("sampled", "random")


class DictionaryTrainer:
    """Fits one key and one value dictionary per layer to what a model's cache holds (Lexico, arXiv 2412.08890).

    ``DictionaryTrainer(model).fit(token_batches, steps=300).save("folder")``. Every step codes a batch of vectors by
    matching pursuit and moves the atoms along the gradient of the relative squared error, given the codes; the part
    of the gradient along each atom is removed and atoms are renormalised.

    Args:
        model: a causal language model, in eval mode.
        atoms: per dictionary; 16 times the head dimension is a good start (1024 for 64; the paper has 4096 for 128).
        sparsity: atoms per vector while training; a dictionary may be used at any other.
        vectors: keys, and values, kept per layer for training, drawn evenly from the text.
        batch: vectors per dictionary and step.
        lr: of Adam at the start; falls to 0 along a cosine. Measured for sampled atoms; the official code has 1e-4
            for random ones and 20 passes over its text.
        init: ``sampled``: normalised training vectors; ``random``: Gaussian directions.
        seed: of the draws.

    Raises:
        InputError: a value out of range.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        atoms: int = 1024,
        sparsity: int = 8,
        *,
        vectors: int = 32768,
        batch: int = 256,
        lr: float = 2e-3,
        init: str = "sampled",
        seed: int = 0,
    ):
        check_atoms(atoms)
        choose("init", init, INITS)
        for name, value in (("vectors", vectors), ("batch", batch)):
            if value < 1:
                raise InputError(f"{name} is {value}; it must be >= 1")
        self.model, self.atoms, self.sparsity = model, atoms, sparsity
        self.vectors, self.batch, self.lr, self.init, self.seed = vectors, batch, lr, init, seed
        self.history: History | None = None
        sizes = kv_sizes(model)
        self.layers, self.heads = sizes.layers, sizes.kv_heads
        limit = min(atoms, sizes.head_dim)
        if not 1 <= sparsity <= limit:
            raise InputError(f"sparsity is {sparsity}; allowed: 1 to {limit}")

    def fit(
        self,
        token_batches: Iterable[TokenBatch],
        steps: int = 300,
        *,
        checkpoint: Path | str | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Dictionaries:
        """Train on a text.

        Args:
            token_batches: as for `collect_kv`.
            steps: updates; 0: the initial atoms as they are.
            checkpoint: folder for resumable training.
            progress: called with (done, total) after each step.

        Returns:
            The dictionaries, in float32 on the CPU. ``self.history`` holds the losses.

        Raises:
            InputError: ``steps`` is negative, or the text has fewer vectors than atoms (for sampled ones).
        """
        if steps < 0:
            raise InputError(f"steps is {steps}; it must be >= 0")
        states = torch.cat(collect_kv(self.model, token_batches, self.vectors, self.seed))
        rows = nn.Parameter(self._initial(states))
        if steps:
            self._descend(rows, states, steps, checkpoint, progress)
        keys, values = rows.detach().transpose(1, 2).cpu().contiguous().chunk(2)
        training = {
            "steps": steps,
            "sparsity": self.sparsity,
            "vectors": states.shape[1],
            "batch": self.batch,
            "lr": self.lr,
            "init": self.init,
            "seed": self.seed,
        }
        return Dictionaries(keys.clone(), values.clone(), {**fingerprint(self.model), "training": training})

    def _initial(self, states: Float[Tensor, "dictionaries vectors dim"]) -> Float[Tensor, "dictionaries atoms dim"]:
        generator = seeded(self.seed, "atoms")
        stack, vectors, dim = states.shape
        drawn = torch.randn(stack, self.atoms, dim, generator=generator).to(states.device)
        if self.init == "random":
            return functional.normalize(drawn, dim=-1)
        if vectors < self.atoms:
            raise InputError(
                f"token_batches gives {vectors} vectors per layer; {self.atoms} sampled atoms need at least as many:"
                " give more text or fewer atoms"
            )
        chosen = states[:, torch.randperm(vectors, generator=generator)[: self.atoms].to(states.device)]
        # A vector of zeros has no direction to give.
        norm = torch.linalg.vector_norm(chosen, dim=-1, keepdim=True)
        return functional.normalize(torch.where(norm > 0, chosen, drawn), dim=-1)

    def _descend(
        self,
        rows: nn.Parameter,
        states: Float[Tensor, "dictionaries vectors dim"],
        steps: int,
        checkpoint: Path | str | None,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        def draw(index: int) -> Tensor:
            generator = seeded(self.seed, "dictionary", index)
            chosen = torch.randint(states.shape[1], (self.batch,), generator=generator)
            return states[:, chosen.to(states.device)]

        def loss(batch: Tensor) -> Tensor:
            dictionary = rows.transpose(1, 2)
            codes = omp_stack(batch, dictionary.detach(), self.sparsity)
            energy = batch.square().sum(-1)
            error = (batch - codes.decode(dictionary)).square().sum(-1)
            # Relative, so that layers with large and with small vectors learn alike; summed over dictionaries, so
            # that none learns more slowly for having company.
            return (error / energy.clamp(min=torch.finfo(torch.float32).tiny)).mean(-1).sum()

        def project(parameter: Tensor) -> None:
            if parameter.grad is not None:
                along = (parameter.grad * parameter).sum(-1, keepdim=True)
                parameter.grad.sub_(along * parameter.detach())

        @torch.no_grad()
        def renormalise(step: int) -> None:
            rows.copy_(functional.normalize(rows, dim=-1))

        hook = rows.register_post_accumulate_grad_hook(project)
        try:
            self.history = optimise(
                loss,
                [rows],
                draw,
                steps=steps,
                optimiser=Optimiser("adam", lr=self.lr),
                schedule=Schedule("cosine"),
                checkpoint=checkpoint,
                checkpoint_every=50,
                identity={"model": fingerprint(self.model), "atoms": self.atoms, "sparsity": self.sparsity},
                seed=self.seed,
                on_step=renormalise,
                progress=progress,
            )
        finally:
            hook.remove()
