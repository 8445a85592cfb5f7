"""How long a batch takes to draw beside a training step, and the exact mixture predictor beside a loop over prompts.

The step is forward, backward and Adam of a plain two-layer transformer of width 64, one thread, batches of 64: what a
laptop trains. The share is drawing / step; it should stay far below 1 for every task.

    python benchmarks/bench_tasks.py
"""

import time

import torch
from torch import nn

from superpose.tasks import TASKS, task
from superpose.theory import regular_prior

BATCH, WIDTH, REPEATS = 64, 64, 5


class Plain(nn.Module):
    """A causal transformer from torch's own layers, so that the benchmark depends on tasks and theory only."""

    def __init__(self, drawn, out):
        super().__init__()
        each = drawn.inputs
        self.read = nn.Linear(each.shape[2], WIDTH) if each.is_floating_point() else nn.Embedding(1024, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, 0.0, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(WIDTH, out)

    def forward(self, inputs):
        mask = nn.Transformer.generate_square_subsequent_mask(inputs.shape[1])
        return self.out(self.body(self.read(inputs), mask=mask, is_causal=True))


def seconds(call):
    call()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def drawing():
    print(f"{'task':20} {'positions':>9} {'draw ms':>9} {'step ms':>9} {'share':>7}")
    for name in TASKS:
        each, generator = task(name), torch.Generator().manual_seed(0)
        batch = each.sample(BATCH, generator)
        model = Plain(batch, each.vocab if each.kind == "token" else each.out_dim)
        adam = torch.optim.Adam(model.parameters())

        def step(each=each, batch=batch, model=model, adam=adam):
            adam.zero_grad()
            each.loss(batch.at_reads(model(batch.inputs)), batch).backward()
            adam.step()

        draw, train = seconds(lambda each=each, g=generator: each.sample(BATCH, g)), seconds(step)
        print(f"{name:20} {each.length:9} {1e3 * draw:9.2f} {1e3 * train:9.1f} {draw / train:7.3f}")


def one_prompt(prior, x, y, query):
    """The textbook formulas for one prompt and one length, in a loop over groups."""
    k = len(x)
    a_w = torch.eye(prior.dim).double() + prior.delta_w * x.T @ x
    b_w, b_mu = prior.delta_w * x.T @ y, prior.delta_mu * (x.sum(0) + query)
    a_mu = 1 + prior.delta_mu * (k + 1)
    logs, values = [], []
    for m in range(prior.groups):
        w, mu = prior.w[m], prior.mu[m]
        centre = torch.linalg.solve(a_w, w + b_w)
        log = -(mu @ mu - (mu + b_mu) @ (mu + b_mu) / a_mu) / (2 * prior.sigma_mu**2)
        logs.append(prior.pi[m].log() + log - (w @ w - (w + b_w) @ centre) / (2 * prior.sigma_w**2))
        values.append(centre @ query)
    return torch.stack(logs).softmax(0) @ torch.stack(values)


def mixture():
    prior, generator = regular_prior(4), torch.Generator().manual_seed(0)
    x = torch.randn(2000, 33, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(2000, 33, generator=generator, dtype=torch.float64)
    batched = seconds(lambda: prior.predict_path(x, y)) / (2000 * 33)
    looped = seconds(lambda: [one_prompt(prior, x[0, :k], y[0, :k], x[0, k]) for k in range(33)]) / 33
    loop = torch.stack([one_prompt(prior, x[0, :k], y[0, :k], x[0, k]) for k in range(33)])
    difference = (prior.predict_path(x[:1], y[:1]).prediction[0] - loop).abs().max()
    print("\nexact posterior, 3 dimensions, 4 groups, up to 32 pairs, per prompt and length:")
    print(f"  loop {1e6 * looped:.0f} us, batched {1e6 * batched:.2f} us")
    print(f"  ratio {looped / batched:.0f}x (bar 40x), largest difference {difference:.1e} (bar 1e-10)")
    x, y = x.repeat(1, 4, 1)[:200, :128], y.repeat(1, 4)[:200, :128]
    path = seconds(lambda: prior.predict_path(x, y))
    each = seconds(lambda: [prior.posterior(x[:, :k], y[:, :k], x[:, k]) for k in range(128)])
    print(f"  all 128 lengths at once against one by one: {each / path:.1f}x (bar 5x)")


if __name__ == "__main__":
    torch.set_num_threads(1)
    drawing()
    mixture()
