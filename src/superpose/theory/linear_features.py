"""What one layer can compute from a prompt, as features in which its prediction is linear.

A layer's output is bilinear or worse in its weights, but linear in products of the query with sums over the examples.
Least squares over these products is a lower bound on the risk of every choice of weights: it shows that the gradient
step is optimal, not just within reach (arXiv 2407.10005, Theorem 1).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from superpose.errors import InputError, choose

CLASSES = ("gradient-step", "attention", "h3")


def layer_features(
    layer: str,
    x: Float[Tensor, "batch context dim"],
    y: Float[Tensor, "batch _"],
    query: Float[Tensor, "batch dim"],
) -> Float[Tensor, "batch features"]:
    """Return the products of the query with everything that a kind of layer can sum over the examples.

    Args:
        layer: ``"gradient-step"``: the query times ``X^T y``; ``"attention"``: times all entries of ``Z^T Z``, where
            the rows of Z are ``(x_i, y_i)``; ``"h3"``: times those of every example by itself, as a filter weights it.
        x: inputs of the examples.
        y: their labels.
        query: input of the query.

    Raises:
        InputError: an unknown layer, or labels of another shape than the inputs'.
    """
    choose("layer", layer, CLASSES)
    if y.shape != x.shape[:2]:
        raise InputError(f"y has shape {list(y.shape)}; allowed: {list(x.shape[:2])}, one label per input")
    if layer == "gradient-step":
        sums = torch.einsum("bnd,bn->bd", x, y)
    else:
        rows = torch.cat([x, y.unsqueeze(-1)], dim=-1)
        first, second = torch.triu_indices(rows.shape[-1], rows.shape[-1])
        products = rows[..., first] * rows[..., second]
        sums = products.sum(1) if layer == "attention" else products.flatten(1)
    return (query.unsqueeze(-1) * sums.unsqueeze(1)).flatten(1)
