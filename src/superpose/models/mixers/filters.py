"""Short causal filters along the sequence, one per channel."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class CausalFilter(nn.Module):
    """Depthwise causal convolution with the parameters of a grouped ``nn.Conv1d``.

    Written as shifted products: a fraction of the time of a grouped convolution on a CPU, and they batch under vmap.

    Args:
        channels: channels, filtered each by itself.
        taps: filter length; the last tap is the present.
    """

    def __init__(self, channels: int, taps: int):
        super().__init__()
        self.taps = taps
        # nn.Conv1d's layout and initial range.
        self.weight = nn.Parameter(torch.empty(channels, 1, taps).uniform_(-(taps**-0.5), taps**-0.5))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-(taps**-0.5), taps**-0.5))

    def forward(
        self, x: Float[Tensor, "batch pos channel"], before: Float[Tensor, "batch past channel"]
    ) -> tuple[Float[Tensor, "batch pos channel"], Float[Tensor, "batch past channel"]]:
        """Filter ``x``, which follows the ``taps - 1`` inputs ``before``; also return the new last inputs."""
        length = x.shape[1]
        window = torch.cat((before.to(x.dtype), x), 1)
        first, *later = self.weight[:, 0].to(x.dtype).unbind(-1)
        out = torch.addcmul(self.bias.to(x.dtype), window[:, :length], first)
        for shift, tap in enumerate(later, start=1):
            out = torch.addcmul(out, window[:, shift : shift + length], tap)
        return out, window[:, length:]

    def initial_state(self, batch: int) -> Float[Tensor, "batch past channel"]:
        """Return zeros for the inputs before the first."""
        return self.weight.new_zeros(batch, self.taps - 1, self.weight.shape[0])
