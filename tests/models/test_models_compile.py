"""The models that people train compile as one graph: a break would cost most of what compiling buys."""

import subprocess
import sys

# In a process of its own, because the shape checks under which tests run are Python that no graph can hold.
PROGRAM = """
import torch
from superpose.models import ContinuousLearner, TokenLearner, backbone_spec
from superpose.tasks import task

for name in ("transformer", "looped"):
    for given in (task("linear"), task("copying")):
        spec = backbone_spec(name, width=16, heads=2, max_positions=given.length)
        if given.kind == "continuous":
            learner = ContinuousLearner(spec, given.in_dim, given.out_dim)
        else:
            learner = TokenLearner(spec, given.vocab)
        drawn = given.sample(2, torch.Generator().manual_seed(0))
        loss = lambda: learner(drawn.inputs, reads=drawn.reads).square().mean()
        torch._dynamo.reset()
        compiled = torch.compile(loss, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(), loss())
"""


def test_transformer_and_looped_compile_as_one_graph():
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
