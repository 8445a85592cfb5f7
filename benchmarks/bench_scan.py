"""One Mamba block, forward and backward, against ``transformers``' MambaMixer on the same weights and tensors.

Both run in this process on the same number of threads; outputs and gradients are compared before anything is timed.
Bars on a CPU: at least 3 times faster at 40 positions, at least 10 times at 280.

    python benchmarks/bench_scan.py [--threads 1] [--repeats 5]
"""

import argparse
import importlib.util
import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer
from transformers.utils import logging

from superpose.models import Context, load_mamba_mixer_state
from superpose.models.mixers.mamba import Mamba

WIDTH, STATE = 32, 16
# batch, positions, the ratio that must be reached.
CASES = ((64, 24, 1.0), (64, 40, 3.0), (16, 280, 10.0))


def step(run: Callable[[Tensor], Tensor], module: torch.nn.Module, x: Tensor) -> list[Tensor]:
    leaf = x.clone().requires_grad_()
    y = run(leaf)
    gradients = torch.autograd.grad(y.square().mean(), [leaf, *(p for _, p in sorted(module.named_parameters()))])
    return [y, *gradients]


def fastest(run: Callable[[], object], repeats: int) -> float:
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    logging.set_verbosity_error()

    theirs = MambaMixer(MambaConfig(hidden_size=WIDTH, state_size=STATE), 0)
    ours = Mamba(WIDTH, state=STATE)
    load_mamba_mixer_state(ours, theirs.state_dict())
    print(f"width {WIDTH}, {STATE} states, {options.threads} thread(s); fastest of {options.repeats}, milliseconds")
    missed = []
    for batch, length, bar in CASES:
        x = torch.randn(batch, length, WIDTH)

        def mine(x: Tensor = x) -> list[Tensor]:
            return step(lambda leaf: ours(leaf, Context())[0], ours, x)

        def peer(x: Tensor = x) -> list[Tensor]:
            return step(theirs, theirs, x)

        differences = [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(mine(), peer(), strict=True)]
        if max(differences) > 1e-5:
            raise SystemExit(f"outputs or gradients differ by {max(differences):.1e} (relative); allowed: 1e-5")
        theirs.use_mambapy = False
        fast, slow = fastest(mine, options.repeats), fastest(peer, options.repeats)
        line = f"B={batch:3} L={length:4}  MambaMixer {1e3 * slow:8.1f}  superpose {1e3 * fast:7.1f}"
        line += f"  ratio {slow / fast:5.1f}"
        if importlib.util.find_spec("mambapy") is not None:
            theirs.use_mambapy = True
            parallel = fastest(peer, options.repeats)
            line += f"  mambapy {1e3 * parallel:8.1f}  ratio {parallel / fast:5.1f}"
        print(f"{line}  (bar {bar:g}; largest relative difference {max(differences):.0e})")
        if slow / fast < bar:
            missed.append(f"L={length}")
    if missed:
        raise SystemExit(f"below the bar: {', '.join(missed)}")


if __name__ == "__main__":
    main()
