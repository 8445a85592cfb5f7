"""Claims, configs, figures and measures of the paper on multi-bin batching. Imports no torch."""

from superpose.experiment import Claim, Run, Study, above, all_of, at_least, at_most
from superpose.studies.multi_bin_batching.config import Config
from superpose.studies.multi_bin_batching.figures import FIGURES

SIMULATED = ("laptop", "gpu")  # the simulations are the same at both

study = Study(
    slug="multi-bin-batching",
    title="Multi-Bin Batching for Increasing LLM Inference Throughput",
    room="inference",
    paper="Guldogan, Kunde, Lee, Pedarsani; arXiv 2412.04504",
    card="docs/multi-bin-batching.md",
    summary=(
        "A static batch runs until its longest request is done. Forming batches of requests of similar predicted "
        "length wastes less. The study checks the paper's formulas by simulation, its gains on laws of real answer "
        "lengths, and the wall clock of real batched generation, with lengths known and predicted."
    ),
    config=Config,
    presets={
        "smoke": {
            "seeds": 1,
            "batch_size": 16,
            "requests": 4000,
            "bins": (1, 2, 4),
            "latency_bins": (1, 2),
            "rates": (4, 8),
            "exponential_batch": 20,
            "exponential_requests": 4000,
            "exponential_bins": (1, 2, 3, 4, 5),
            "error_bins": (2, 4),
            "errors": (0, 0.5),
            "law_requests": 2000,
            "perturbations": 50,
            "layers": 1,
            "width": 16,
            "served": 24,
            "served_bins": (1, 2),
            "median": 4,
            "cap": 12,
            "predictor_served": 24,
            "predictor_bins": 2,
            "predictor_median": 4,
            "prompts": 60,
            "repeats": 1,
        },
        "laptop": {},
        "gpu": {
            "seeds": 20,
            "perturbations": 20_000,
            "layers": 8,
            "width": 1024,
            "served": 1024,
            "served_bins": (1, 2, 4, 8, 16),
            "predictor_served": 1024,
            "prompts": 4000,
        },
    },
    claims=(
        Claim(
            id="C1",
            sentence=(
                "Saturated throughput is B over the mean batch time; with uniform lengths in equal bins it grows with "
                "the number of bins towards 2B / (a + b)."
            ),
            paper_figure="Theorem 4.2, Fig. 3: limit 12.19 for U(1, 20), B = 128",
            criteria={
                scale: all_of(
                    at_most("largest-error", 0.01), above("smallest-step", 0), above("smallest-gap-to-limit", 0)
                )
                for scale in SIMULATED
            },
        ),
        Claim(
            id="C2",
            sentence="For uniform lengths and a given number of bins, bins of equal mass have the smallest batch time.",
            paper_figure="Lemma 4.1",
            criteria={
                scale: all_of(at_most("optimiser-distance", 1e-4), at_most("largest-gain", 0)) for scale in SIMULATED
            },
        ),
        Claim(
            id="C3",
            sentence="The rule for the smallest number of bins within epsilon of the limit is exact and O(1/epsilon).",
            paper_figure="Theorem 4.3",
            criteria={
                scale: all_of(at_most("violations", 0), at_least("slope", -1.1), at_most("slope", -0.9))
                for scale in ("smoke", *SIMULATED)
            },
        ),
        Claim(
            id="C4",
            sentence=(
                "Mean latency with unlimited servers is the batch time plus (B - 1) k / (2 rate); with one server it "
                "is no less; bins cost latency under a light load and save it where one bin cannot keep up."
            ),
            paper_figure="Lemma 5.1, Fig. 4",
            criteria={
                scale: all_of(
                    at_most("largest-error", 0.01),
                    at_least("smallest-one-server-excess", 0),
                    at_least("overload.growth-k1", 2),
                    at_most("overload.largest-growth-k2-up", 1.2),
                    above("overload.k1-over-k2", 1),
                    above("low-load.most-bins-minus-one", 0),
                )
                for scale in SIMULATED
            },
        ),
        Claim(
            id="C5",
            sentence=(
                "For exponential lengths the edges of Lemma A.1 reach at least the throughput of Corollary A.1.1, and "
                "beat bins of equal mass."
            ),
            paper_figure="Lemma A.1, Corollary A.1.1, Fig. 9 (Exp(0.1), B = 200)",
            criteria={
                scale: all_of(
                    *(at_least(f"over-bound.k={k}", 1) for k in (2, 3, 4, 5)),
                    above("over-equal-mass", 1),
                )
                for scale in SIMULATED
            },
        ),
        Claim(
            id="C6",
            sentence=(
                "With requests moved to neighbouring bins at random, four and more bins stay above one bin; two bins "
                "fall to its level."
            ),
            paper_figure="Fig. 8: error probabilities 0.01 to 0.5",
            criteria={
                scale: all_of(above("smallest-ratio-k4-up", 1), at_most("k2-ratio-at-largest-error", 1.02))
                for scale in SIMULATED
            },
        ),
        Claim(
            id="C7",
            sentence="On the lengths of real answers, bins raise the throughput of batches of 8 by the paper's ratios.",
            paper_figure="Fig. 5: ratios 1.21, 1.41, 1.55, 1.67, 1.75 at 2, 4, 8, 16, 32 bins",
            criteria={
                scale: all_of(at_most("largest-distance", 0.06), at_least("smallest-waste-k1", 0.3))
                for scale in SIMULATED
            },
        ),
        Claim(
            id="C8",
            sentence="With known lengths, bins give significant throughput gains in real batched generation.",
            paper_figure="Fig. 7: about +45 % at 4 bins, about +70 % at 32 (Phi-3.5-mini, A100)",
            criteria={
                "laptop": all_of(at_least("gain.k=4", 0.3), above("smallest-step", 0)),
                "gpu": all_of(at_least("gain.k=4", 0.35), at_least("gain.k=16", 0.5)),
            },
        ),
        Claim(
            id="C9",
            sentence="A learned predictor of lengths still raises throughput, and by less than known lengths do.",
            paper_figure="appendix C.1: about +8 % at 4 bins, +45 % with known lengths",
            criteria={
                scale: all_of(above("predictor-gain", 0), above("oracle-minus-predictor", 0)) for scale in SIMULATED
            },
        ),
    ),
    figures=FIGURES,
)


@study.measured_by("C1")
def throughput(run: Run[Config]) -> None:
    """Saturated throughput against the closed form."""
    from superpose.studies.multi_bin_batching.measures import measure_throughput

    measure_throughput(run)


@study.measured_by("C2")
def edges(run: Run[Config]) -> None:
    """The best edges for uniform lengths."""
    from superpose.studies.multi_bin_batching.measures import measure_edges

    measure_edges(run)


@study.measured_by("C3")
def number(run: Run[Config]) -> None:
    """The rule for the number of bins."""
    from superpose.studies.multi_bin_batching.measures import measure_number

    measure_number(run)


@study.measured_by("C4")
def latency(run: Run[Config]) -> None:
    """Latency with unlimited servers and with one."""
    from superpose.studies.multi_bin_batching.measures import measure_latency

    measure_latency(run)


@study.measured_by("C5")
def exponential(run: Run[Config]) -> None:
    """Exponential lengths and their edges."""
    from superpose.studies.multi_bin_batching.measures import measure_exponential

    measure_exponential(run)


@study.measured_by("C6")
def errors(run: Run[Config]) -> None:
    """Requests in wrong bins."""
    from superpose.studies.multi_bin_batching.measures import measure_errors

    measure_errors(run)


@study.measured_by("C7")
def laws(run: Run[Config]) -> None:
    """Laws of real answer lengths."""
    from superpose.studies.multi_bin_batching.measures import measure_laws

    measure_laws(run)


@study.measured_by("C8", exclusive=True)
def served(run: Run[Config]) -> None:
    """Real generation, lengths known."""
    from superpose.studies.multi_bin_batching.measures import measure_served

    measure_served(run)


@study.measured_by("C9", exclusive=True)
def predicted(run: Run[Config]) -> None:
    """Real generation, lengths predicted."""
    from superpose.studies.multi_bin_batching.measures import measure_predictor

    measure_predictor(run)
