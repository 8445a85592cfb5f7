"""What the report draws of the study. Imports no torch."""

from superpose.experiment import Figure

_KS = {f"k{k}": "1 bin" if k == 1 else f"{k} bins" for k in range(1, 33)}

FIGURES = (
    Figure(
        id="throughput",
        title="Throughput and waste at saturation, lengths U(1, 20)",
        curves=("throughput", "waste"),
        panels={"throughput": "requests per unit of time", "waste": "padding waste"},
        x_label="number of bins",
        y_label="throughput, or share of row-steps wasted",
        claims=("C1",),
        caption=(
            "Mean of the seeds with 95 % intervals, on the closed form of Theorem 4.2; the limit is that of batches "
            "without padding (the paper's c_max, Fig. 3)."
        ),
    ),
    Figure(
        id="bins-needed",
        title="How many bins reach the limit up to epsilon",
        curves=("bins-needed",),
        x_label="log10 of epsilon (requests per unit of time)",
        y_label="number of bins",
        log_y=True,
        claims=("C3",),
        caption="Theorem 4.3: the line has slope -1 where epsilon is small.",
    ),
    Figure(
        id="latency",
        title="Mean latency over the arrival rate",
        curves=("latency", "latency-free"),
        panels={"latency": "one server, simulated", "latency-free": "unlimited servers, formula"},
        x_label="arrivals per unit of time",
        y_label="mean latency",
        log_y=True,
        claims=("C4",),
        arms=_KS,
        caption=(
            "Under a light load bins cost latency, since they fill more slowly; where one bin cannot keep up, they "
            "are what keeps latency finite (Fig. 4). Beyond the capacity latency grows with the length of the run."
        ),
    ),
    Figure(
        id="exponential",
        title="Exponential lengths: which edges",
        curves=("exponential",),
        x_label="number of bins",
        y_label="requests per unit of time",
        claims=("C5",),
        arms={"rule": "Lemma A.1", "equal-mass": "equal mass", "optimal": "numeric optimum", "bound": "lower bound"},
        caption="Equal masses are best for uniform lengths only (the paper's Fig. 9 shows Lemma A.1 and its bound).",
    ),
    Figure(
        id="errors",
        title="Requests in a neighbouring bin by mistake",
        curves=("errors",),
        x_label="probability of moving to either neighbour",
        y_label="requests per unit of time",
        claims=("C6",),
        arms=_KS,
        caption=(
            "With batches of 128 the longest intruder decides, so a few mistakes cost much and further ones little; "
            "with four bins and more, neighbours are still better than no bins (Fig. 8)."
        ),
    ),
    Figure(
        id="laws",
        title="Gain on laws of real answer lengths, B = 8, 8 servers",
        curves=("laws",),
        x_label="number of bins",
        y_label="throughput over that of one bin",
        claims=("C7",),
        arms={"mixtral_8x7b": "Mixtral-8x7B", "gpt4_1106": "GPT-4", "paper": "paper (Phi-3.5-mini)"},
        caption="Answers to GSM8K; the paper's ratios are those of another model's answers to the same questions.",
    ),
    Figure(
        id="served",
        title="Real batched generation, oracle lengths",
        kind="bars",
        curves=("served", "predictor"),
        panels={"served": "bins, oracle lengths", "predictor": "where lengths come from"},
        x_label="number of bins, or source of the lengths",
        y_label="speed over one bin",
        claims=("C8", "C9"),
        caption=(
            "A random-weight Llama, batches of 8, every request stopped at its own length. Bars of the wall clock with "
            "the range of the repeats, beside what counting decoding steps predicts."
        ),
    ),
)
