"""What the study measures, and with how much of it. Imports no torch."""

from typing import Annotated

from pydantic import Field, field_validator

from superpose.experiment import StudyConfig

LOW, HIGH = 1.0, 20.0  # the uniform law of Figures 3, 4 and 8
EXPONENTIAL_RATE = 0.1  # of Figure 9
SECONDS_PER_TOKEN = 0.0366  # of Figures 5 and 6: Phi-3.5-mini on an A100
REAL_BATCH, REAL_SERVERS = 8, 8
PAPER_RATIOS = {2: 1.21, 4: 1.41, 8: 1.55, 16: 1.67, 32: 1.75}  # of throughput over one bin, Figure 5
LAWS = ("mixtral_8x7b", "gpt4_1106", "log-normal")
REAL_LAWS = LAWS[:2]
OVERLOAD = 8.0  # arrivals per unit of time at which one bin cannot keep up and two can

Count = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, le=0.5)]


class Config(StudyConfig):
    """What is measured, and with how much of it.

    Attributes:
        seeds: independent simulations; 10 as in the paper.
        batch_size: of the simulations with uniform lengths; 128 as in the paper.
        requests: of these simulations; 128,000 as in the paper.
        bins: numbers of bins for throughput.
        latency_bins: numbers of bins for latency; 1 to 5 as in the paper.
        rates: arrivals per unit of time for latency.
        exponential_batch: batch size of the exponential law; 200 as in the paper.
        exponential_requests: more than the paper's 200,000, since a bound is judged that lies within 1 %.
        exponential_bins: numbers of bins of the exponential law; up to 5 as in the paper.
        error_bins: numbers of bins of the error model.
        errors: its probabilities of moving to either neighbour.
        law_requests: drawn from a law of real lengths.
        perturbations: random changes of the edges tried against equal bins.
        layers, width: of the random-weight Llama that is served.
        served: requests per arm of the served run with an oracle; fewer leave a visible share in unfilled batches.
        served_bins: numbers of bins of that run; the first is 1.
        median, cap: of its lengths in tokens, log-normal as those of real answers.
        predictor_served: requests per arm of the served run with a predictor.
        predictor_bins: bins of that run.
        predictor_median: scale of its lengths; the cap is the same.
        prompts: prompts from which the predictor learns (70 %) and on which it is judged (30 %).
        repeats: of every served run, the arms interleaved.
    """

    seeds: Count = 10
    batch_size: Count = 128
    requests: Annotated[int, Field(ge=100)] = 128_000
    bins: Annotated[tuple[Count, ...], Field(min_length=2)] = (1, 2, 3, 4, 5, 6, 7, 8)
    latency_bins: Annotated[tuple[Count, ...], Field(min_length=2)] = (1, 2, 3, 4, 5)
    rates: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (4, 5, 6, 7, 8, 9, 10, 11, 12)
    exponential_batch: Annotated[int, Field(ge=2)] = 200
    exponential_requests: Annotated[int, Field(ge=100)] = 1_000_000
    exponential_bins: Annotated[tuple[Count, ...], Field(min_length=2)] = (1, 2, 3, 4, 5)
    error_bins: Annotated[tuple[Count, ...], Field(min_length=2)] = (2, 4, 8)
    errors: Annotated[tuple[Probability, ...], Field(min_length=1)] = (0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5)
    law_requests: Annotated[int, Field(ge=100)] = 64_000
    perturbations: Count = 2000
    layers: Count = 4
    width: Annotated[int, Field(ge=16, multiple_of=16)] = 256
    served: Annotated[int, Field(ge=8)] = 512
    served_bins: Annotated[tuple[Count, ...], Field(min_length=2)] = (1, 2, 4, 8)
    median: Annotated[float, Field(gt=0)] = 40
    cap: Count = 160
    predictor_served: Annotated[int, Field(ge=8)] = 384
    predictor_bins: Annotated[int, Field(ge=2)] = 4
    predictor_median: Annotated[float, Field(gt=0)] = 24
    prompts: Annotated[int, Field(ge=40)] = 1200
    repeats: Count = 3

    @field_validator("bins", "latency_bins", "exponential_bins", "served_bins")
    @classmethod
    def _from_one_up(cls, bins: tuple[int, ...]) -> tuple[int, ...]:
        if bins[0] != 1 or list(bins) != sorted(set(bins)):
            raise ValueError("allowed: increasing numbers of bins, the first of them 1")
        return bins

    @field_validator("rates")
    @classmethod
    def _holds_overload(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if OVERLOAD not in rates or list(rates) != sorted(set(rates)):
            raise ValueError(f"allowed: increasing rates, {OVERLOAD:g} among them")
        return rates

    @field_validator("error_bins")
    @classmethod
    def _two_and_more(cls, bins: tuple[int, ...]) -> tuple[int, ...]:
        if bins[0] != 2 or list(bins) != sorted(set(bins)):
            raise ValueError("allowed: increasing numbers of bins, the first of them 2")
        return bins
