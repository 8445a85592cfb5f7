"""Time per decoded token and live bytes of key-value caches, by context length, in one process on one model.

The full cache, transformers' quantised caches (those that are installed), the KIVI-like cache, and Lexico by its dense
and its factored path. The model is random and shaped like SmolLM2-135M with fewer layers and a small vocabulary: none
of that changes what a cache costs per layer. Times are means over whole blocks of decoded tokens, so the coding of
what leaves the window is in them. Before anything is timed, both Lexico paths are compared.

    python benchmarks/bench_lexico_decode.py [--threads 1] [--layers 4] [--atoms 1024] [--sparsity 8]
"""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from transformers import Cache, DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel, QuantizedCache

from superpose.inference import (
    Dictionaries,
    KiviCache,
    KiviSettings,
    LexicoCache,
    LexicoSettings,
    lexico_bytes,
    use_factored_attention,
)
from superpose.models.kv_cache import attention_shape

BLOCK = 32


def shaped_model(layers: int) -> PreTrainedModel:
    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=1024,
        max_position_embeddings=16384,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def live_bytes(cache: Cache) -> int:
    """Bytes of all tensors that a cache's layers hold, whatever their class; shared storage counts once."""
    found: dict[int, int] = {}

    def visit(value: object, depth: int) -> None:
        if isinstance(value, torch.Tensor):
            found[value.data_ptr()] = value.nbytes
        elif isinstance(value, (tuple, list)):
            for item in value:
                visit(item, depth)
        elif isinstance(value, dict):
            visit(list(value.values()), depth)
        elif depth and hasattr(value, "__dict__"):
            visit(vars(value), depth - 1)

    if isinstance(cache, (LexicoCache, KiviCache)):
        return cache.bytes("layout").total
    for layer in cache.layers:
        visit(layer, 2)
    return sum(found.values())


def decode(model: PreTrainedModel, cache: Cache, factored: bool, clock: Callable[[], float]) -> float:
    """Seconds per token over one block of decoded tokens."""
    token = torch.ones(1, 1, dtype=torch.long)
    with use_factored_attention(model) if factored else nullcontext():
        start = clock()
        for _ in range(BLOCK):
            model(token, past_key_values=cache, use_cache=True)
        return (clock() - start) / BLOCK


def filled(model: PreTrainedModel, cache: Cache, context: int) -> tuple[Cache, int]:
    prompt = torch.randint(0, 1024, (1, context), generator=torch.Generator().manual_seed(1))
    model(prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache, live_bytes(cache)


def crossing(lengths: list[int], ours: list[float], theirs: list[float]) -> str:
    """Where ours becomes cheaper and stays so, by linear interpolation between measured lengths."""
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    dearer = [i for i, gap in enumerate(gaps) if gap > 0]
    if not dearer:
        return f"cheaper at every measured length, from {lengths[0]} on"
    last = dearer[-1]
    if last == len(gaps) - 1:
        return f"not reached up to {lengths[-1]} tokens"
    at = lengths[last] + (lengths[last + 1] - lengths[last]) * gaps[last] / (gaps[last] - gaps[last + 1])
    return f"from about {at:.0f} tokens on"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--atoms", type=int, default=1024)
    parser.add_argument("--sparsity", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    # One thread's CPU time does not see other processes; of several threads only the wall time means anything.
    clock = time.process_time if options.threads == 1 else time.perf_counter

    model = shaped_model(options.layers)
    config, shape = model.config, attention_shape(model)
    dictionaries = Dictionaries.random(config, options.atoms)
    settings = LexicoSettings(options.sparsity, options.sparsity, block=BLOCK)

    def lexico() -> Cache:
        return LexicoCache(config, dictionaries, settings)

    methods: dict[str, tuple[Callable[[], Cache], bool]] = {"full": (lambda: DynamicCache(config=config), False)}
    for backend, extra in (("fp8", {}), ("quanto", {"nbits": 4}), ("hqq", {"nbits": 4})):
        try:
            QuantizedCache(backend, config, **extra)
        except ImportError as error:
            print(f"{backend}: not measured, {str(error).splitlines()[0][:90]}")
            continue
        methods[f"transformers {backend}"] = (lambda b=backend, e=extra: QuantizedCache(b, config, **e), False)
    methods["KIVI-like 2 bit"] = (lambda: KiviCache(config, KiviSettings(2, block=BLOCK)), False)
    methods["Lexico dense"] = (lexico, False)
    methods["Lexico factored"] = (lexico, True)

    check = torch.randint(0, 1024, (1, 300), generator=torch.Generator().manual_seed(2))
    outputs = []
    for factored in (False, True):
        cache = lexico()
        model(check, past_key_values=cache)
        with use_factored_attention(model) if factored else nullcontext():
            outputs.append(model(check[:, :1], past_key_values=cache).logits)
    difference = float((outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max())
    if difference > 1e-4:
        raise SystemExit(f"the two paths of Lexico differ by {difference:.1e} (relative); allowed: 1e-4")

    print(
        f"{options.layers} layers, {shape.query_heads} query and {shape.kv_heads} key-value heads of {shape.head_dim},"
        f" {options.atoms} atoms, s={options.sparsity}, float32, {options.threads} thread(s),"
        f" {'CPU' if options.threads == 1 else 'wall'} time, best of {options.repeats};"
        f" exact window {settings.buffer}; paths agree to {difference:.0e}"
    )
    times: dict[str, list[float]] = {name: [] for name in methods}
    for context in options.contexts:
        caches = {name: filled(model, make(), context) for name, (make, _) in methods.items()}
        best = dict.fromkeys(methods, float("inf"))
        for _ in range(options.repeats):  # in turns, so that a slow moment of the machine hits all
            for name, (_, factored) in methods.items():
                best[name] = min(best[name], decode(model, caches[name][0], factored, clock))
        for name, seconds in best.items():
            times[name].append(seconds)
            held = caches[name][1]
            print(
                f"context {context:5}  {name:18} {1e3 * seconds:8.2f} ms/token  x{seconds / best['full']:5.2f}"
                f"   {held / 1024:9.0f} KiB live  x{held / live_full(shape, context):5.3f}",
                flush=True,
            )
    print(f"factored against dense: {crossing(options.contexts, times['Lexico factored'], times['Lexico dense'])}")
    for name in ("Lexico dense", "Lexico factored"):
        print(f"{name} against full: {crossing(options.contexts, times[name], times['full'])}")
    pays = next(
        length
        for length in range(1, 10**6)
        if lexico_bytes(shape, settings, length) + dictionaries.nbytes() < live_full(shape, length) // 2
    )
    print(f"float16 memory with the dictionaries counted for one session: smaller from {pays} tokens on")


def live_full(shape, tokens: int) -> int:
    return 4 * 2 * shape.layers * shape.kv_heads * shape.head_dim * tokens


if __name__ == "__main__":
    main()
