"""Batched matching pursuit against scikit-learn, a plain Gram-and-solve loop and, if given, Lexico's own code.

    python benchmarks/bench_omp.py [--official PATH/lexico/omp.py] [--threads 1] [--device cpu] [--json FILE]

``--official`` takes the file ``lexico/omp.py`` of a checkout of github.com/krafton-ai/lexico. All run on the same
tensors in this process; times are the best of several calls, ratios are times over that of `superpose.inference.omp`
without a Gram matrix. On a CPU times are CPU time. Workspace is the largest memory that a call holds beside its inputs.
"""

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import orthogonal_mp_gram
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from superpose.inference import omp

CASES = ((256, 64, 1024, 8), (2048, 64, 1024, 8), (512, 128, 4096, 8), (512, 128, 4096, 16))


def plain(x: Tensor, dictionary: Tensor, gram: Tensor, sparsity: int) -> tuple[Tensor, Tensor]:
    """The loop as one would write it: correlate by Gram rows, solve the normal equations anew at every step."""
    start = x @ dictionary
    correlation, rows = start.clone(), torch.arange(len(x), device=x.device)
    chosen = torch.empty(len(x), 0, dtype=torch.long, device=x.device)
    weights = x.new_empty(len(x), 0)
    for _ in range(sparsity):
        chosen = torch.cat([chosen, correlation.abs().argmax(-1, keepdim=True)], dim=1)
        system = gram[chosen[:, :, None], chosen[:, None, :]]
        weights = torch.linalg.solve(system, start[rows[:, None], chosen])
        correlation = start - torch.bmm(weights[:, None], gram[chosen])[:, 0]
    return chosen, weights


def scikit(x: Tensor, dictionary: Tensor, gram: Tensor, sparsity: int) -> tuple[Tensor, Tensor]:
    """scikit-learn's function, on arrays."""
    covariances = (dictionary.T @ x.T).cpu().numpy()
    dense = np.asarray(orthogonal_mp_gram(gram.cpu().numpy(), covariances, n_nonzero_coefs=sparsity)).T
    largest = np.argsort(-np.abs(dense), axis=1)[:, :sparsity]
    weights = torch.from_numpy(np.take_along_axis(dense, largest, 1))
    return torch.from_numpy(largest.copy()).to(x.device), weights.to(x)


def official(path: Path) -> Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]:
    spec = importlib.util.spec_from_file_location("official_omp", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def call(x: Tensor, dictionary: Tensor, gram: Tensor, sparsity: int) -> tuple[Tensor, Tensor]:
        chosen, weights, *_ = module.omp_v0(dictionary[None], x[None], gram[None], sparsity)
        return chosen[0].long(), weights[0, ..., 0]

    return call


def ours(with_gram: bool) -> Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]:
    def call(x: Tensor, dictionary: Tensor, gram: Tensor, sparsity: int) -> tuple[Tensor, Tensor]:
        codes = omp(x, dictionary, sparsity, gram=gram if with_gram else None)
        return codes.indices, codes.coefficients

    return call


def best_ms(call: Callable[[], Any], cuda: bool, repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        if cuda:
            torch.cuda.synchronize()
            began = time.perf_counter()
            call()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        else:
            began = time.process_time()
            call()
            times.append(time.process_time() - began)
    return 1e3 * min(times)


def workspace(call: Callable[[], Any], cuda: bool) -> int:
    """Peak bytes of tensors made during a call."""
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - held
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, record_shapes=False) as log:
        call()
    running = peak = 0
    recorded: Any = log.profiler
    for event in sorted(recorded.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            running += event.nbytes()
            peak = max(peak, running)
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cuda = arguments.device == "cuda"
    methods = {"superpose": ours(False), "superpose, Gram given": ours(True), "Gram and solve": plain}
    if arguments.official is not None:
        methods["official"] = official(arguments.official)
    methods["scikit-learn"] = scikit
    rows: list[dict[str, Any]] = []
    for vectors, dim, atoms, sparsity in CASES:
        generator = torch.Generator().manual_seed(0)
        dictionary = functional.normalize(torch.randn(dim, atoms, generator=generator), dim=0).to(arguments.device)
        x = torch.randn(vectors, dim, generator=generator).to(arguments.device)
        gram = dictionary.T @ dictionary
        reference = scikit(x, dictionary, gram, sparsity)[0].sort(-1).values
        base = 0.0
        print(f"{vectors} vectors, dim {dim}, {atoms} atoms, sparsity {sparsity}")
        for name, method in methods.items():
            call = partial(method, x, dictionary, gram, sparsity)
            ms = best_ms(call, cuda, 1 if name == "scikit-learn" else arguments.repeats)
            base = base or ms
            same = float((call()[0].sort(-1).values == reference).all(-1).double().mean())
            used = None if name == "scikit-learn" else workspace(call, cuda) / 2**20
            rows.append(
                {
                    "vectors": vectors,
                    "dim": dim,
                    "atoms": atoms,
                    "sparsity": sparsity,
                    "method": name,
                    "ms": ms,
                    "times_ours": ms / base,
                    "same_support_as_scikit": same,
                    "workspace_mib": used,
                }
            )
            memory = "" if used is None else f", workspace {used:.1f} MiB"
            print(f"  {name:22} {ms:9.2f} ms  {ms / base:6.2f}x  same supports {same:.1%}{memory}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
