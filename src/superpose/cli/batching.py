"""``superpose batching``: how many bins a load of requests needs, and what they would do to it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from superpose.cli.options import JsonOption

if TYPE_CHECKING:
    import numpy as np

app = typer.Typer(help="Static batches of requests of similar predicted length.", no_args_is_help=True)

LengthsArgument = Annotated[
    str, typer.Argument(help="CSV of observed lengths with a header, or mixtral_8x7b or gpt4_1106 (answers to GSM8K).")
]
ColumnOption = Annotated[str | None, typer.Option("--column", help="Of the CSV: which one holds the lengths.")]
BatchOption = Annotated[int, typer.Option("--batch-size", "-B", help="Requests per batch.")]
BinsOption = Annotated[str, typer.Option("--bins", "-k", help="Numbers of bins: 1,2,4,8.")]
RateOption = Annotated[float | None, typer.Option("--rate", help="Arrivals per second.")]
ServersOption = Annotated[int, typer.Option("--servers", help="Batches that run at once.")]
SecondsOption = Annotated[
    float, typer.Option("--seconds-per-token", help="Of one decoding step; 1: times in steps, rates per step.")
]
EdgesOption = Annotated[str, typer.Option("--edges", help="quantile (equal mass) or optimal (least batch time).")]


@app.callback()
def root() -> None:
    """Static batches of requests of similar predicted length."""


@app.command("plan")
def plan(
    lengths: LengthsArgument,
    column: ColumnOption = None,
    batch_size: BatchOption = 8,
    bins: BinsOption = "1,2,4,8,16,32",
    rate: RateOption = None,
    servers: ServersOption = 1,
    seconds_per_token: SecondsOption = 1.0,
    edges: EdgesOption = "quantile",
    within: Annotated[
        float, typer.Option("--within", help="How far below the limit is near enough, as a share.")
    ] = 0.1,
    as_json: JsonOption = False,
) -> None:
    """Print throughput, padding waste and latency for each number of bins, from closed forms, and recommend one.

    Latency is that of unlimited servers, a lower bound.
    """
    from superpose.inference import plan_bins, recommended_plan

    counts = _counts(bins)
    service = _service(lengths, column, seconds_per_token)
    plans = plan_bins(service, batch_size, counts, rate=rate, servers=servers, edges=edges)
    best = recommended_plan(plans, within)
    rows = [
        {
            "bins": each.bins,
            "wanted": each.wanted,
            "edges": [float(edge) / seconds_per_token for edge in each.edges],
            "batch_time": each.batch_time,
            "throughput": each.throughput,
            "share_of_limit": each.throughput / each.limit,
            "waste": each.waste,
            "latency": _finite(each.latency),
            "stable": None if rate is None else rate < each.throughput,
        }
        for each in plans
    ]
    if as_json:
        _json({"limit": plans[0].limit, "recommended_bins": best.bins if best else None, "plans": rows})
        return
    from superpose.cli.tables import show

    unit = _unit(seconds_per_token)
    headers = ["bins", f"requests/{unit}", "of the limit", "waste", f"batch time, {unit}"]
    headers += [] if rate is None else [f"least latency, {unit}"]
    table = [
        [
            row["bins"] if row["bins"] == row["wanted"] else f"{row['bins']} (of {row['wanted']})",
            f"{row['throughput']:.4g}",
            f"{row['share_of_limit']:.1%}",
            f"{row['waste']:.1%}",
            f"{row['batch_time']:.4g}",
            *([] if rate is None else [f"{row['latency']:.4g}" if row["stable"] else "unstable"]),
        ]
        for row in rows
    ]
    show(headers, table)
    if best is None:
        print(f"none of these comes within {within:.0%} of the limit, {plans[0].limit:.4g}, and keeps up")
    else:
        inner = ", ".join(f"{edge / seconds_per_token:.4g}" for edge in best.edges[1:-1]) or "none"
        print(f"recommended: {best.bins} bins (within {within:.0%} of the limit); inner edges, in tokens: {inner}")


@app.command("simulate")
def simulate(
    lengths: LengthsArgument,
    column: ColumnOption = None,
    batch_size: BatchOption = 8,
    bins: BinsOption = "1,2,4,8",
    rate: RateOption = None,
    servers: ServersOption = 1,
    seconds_per_token: SecondsOption = 1.0,
    edges: EdgesOption = "quantile",
    requests: Annotated[int, typer.Option("--requests", help="How many, drawn from the lengths.")] = 20_000,
    max_wait: Annotated[float | None, typer.Option("--max-wait", help="Longest wait for a batch to fill.")] = None,
    policy: Annotated[str, typer.Option("--policy", help="fcfs, or shortest batch first.")] = "fcfs",
    error: Annotated[
        float, typer.Option("--error", help="Probability of landing in either neighbouring bin by mistake.")
    ] = 0.0,
    seed: Annotated[int, typer.Option("--seed", help="Of the draws.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Simulate a stream of requests with these lengths, for each number of bins.

    Without --rate all requests are there at once, which measures throughput.
    """
    import numpy as np

    from superpose.errors import InputError, choose
    from superpose.inference import (
        assign_bins,
        neighbour_errors,
        optimal_edges,
        poisson_arrivals,
        quantile_edges,
        simulate_batching,
    )

    choose("--edges", edges, ("quantile", "optimal"))
    if requests < 1:
        raise InputError(f"--requests is {requests}; allowed: 1 or more")
    counts = _counts(bins)
    observed = _service(lengths, column, seconds_per_token)
    generator = np.random.default_rng(seed)
    service = generator.choice(observed, requests)
    arrivals = np.zeros(requests) if rate is None else poisson_arrivals(requests, rate, generator)
    rows = []
    for wanted in counts:
        found = quantile_edges(observed, wanted) if edges == "quantile" else optimal_edges(observed, wanted, batch_size)
        count = len(found) - 1
        moved = neighbour_errors(assign_bins(service, found), count, error, np.random.default_rng([seed, 1]))
        # Bins stand for themselves, since a bin by mistake has no predicted length: the i-th is [i, i + 1).
        done = simulate_batching(
            arrivals, service, np.arange(count + 1.0), batch_size, servers, policy, max_wait, predicted=moved + 0.5
        )
        rows.append(
            {
                "bins": count,
                "wanted": wanted,
                "throughput": done.throughput,
                "waste": done.padding_waste,
                "utilisation": done.utilisation,
                "mean_latency": done.mean_latency,
                "median_latency": float(np.median(done.latency)),
                "p99_latency": float(np.quantile(done.latency, 0.99)),
                "batches": len(done.formed),
            }
        )
    if as_json:
        _json({"requests": requests, "rate": rate, "runs": rows})
        return
    from superpose.cli.tables import show

    unit = _unit(seconds_per_token)
    show(
        ["bins", f"requests/{unit}", "waste", "busy", f"mean latency, {unit}", "median", "99 %"],
        [
            [
                row["bins"],
                f"{row['throughput']:.4g}",
                f"{row['waste']:.1%}",
                f"{row['utilisation']:.1%}",
                *(f"{row[name]:.4g}" for name in ("mean_latency", "median_latency", "p99_latency")),
            ]
            for row in rows
        ],
    )


def _service(lengths: str, column: str | None, seconds_per_token: float) -> "np.ndarray":
    from superpose.errors import InputError
    from superpose.inference import answer_lengths, load_lengths
    from superpose.inference.answer_lengths import ANSWERING_MODELS

    if not 0 < seconds_per_token < float("inf"):
        raise InputError(f"--seconds-per-token is {seconds_per_token}; allowed: numbers above 0")
    if lengths in ANSWERING_MODELS and not Path(lengths).exists():
        return seconds_per_token * answer_lengths(lengths)
    return seconds_per_token * load_lengths(lengths, column)


def _unit(seconds_per_token: float) -> str:
    return "step" if seconds_per_token == 1 else "s"


def _counts(text: str) -> list[int]:
    from superpose.errors import InputError

    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--bins is {text!r}; allowed: numbers of bins with commas between, as 1,2,4") from None
    if min(counts) < 1:
        raise InputError(f"--bins is {text!r}; allowed: numbers of bins of 1 or more")
    return counts


def _finite(value: float | None) -> float | None:
    # JSON has no infinity; "stable" says it.
    return None if value is None or value == float("inf") else value


def _json(document: Any) -> None:
    import json

    print(json.dumps(document, indent=1))
