"""What ``superpose lexico eval`` measures and prints."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from superpose.cli.tables import show
from superpose.experiment import Progress
from superpose.inference import Dictionaries, LexicoSettings, evaluate
from superpose.inference.decode_quality import LexicoMethod, decode_quality
from superpose.inference.lexico import lexico_bytes
from superpose.models.kv_cache import attention_shape


def evaluation(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    tokens: Tensor,
    settings: Sequence[LexicoSettings],
    quiet: bool,
) -> list[dict[str, Any]]:
    """One row for the full cache, then one per setting; the tokens behind the first exact window are scored."""
    dictionaries.check(model)
    shape = attention_shape(model)
    length = tokens.shape[1]
    start = settings[0].buffer + 1
    full_bytes = 2 * 2 * shape.head_dim * shape.kv_heads * shape.layers * length
    full = decode_quality(model, tokens, start=start)
    rows: list[dict[str, Any]] = [
        {"cache": "full", "perplexity": full.perplexity, "bytes": full_bytes, "share": 1.0, "agreement": 1.0}
    ]
    errors = evaluate(dictionaries, model, tokens.split(1), sorted({s.key_sparsity for s in settings}))
    by_sparsity = {row.sparsity: row for row in errors}
    with Progress(quiet).bar("decoding", len(settings)) as advance:
        for one in settings:
            scored = decode_quality(model, tokens, LexicoMethod(dictionaries, one), start=start)
            held = lexico_bytes(shape, one, 1, length - 1)
            rows.append(
                {
                    "cache": f"s={one.key_sparsity}",
                    "key_error": by_sparsity[one.key_sparsity].key,
                    "value_error": by_sparsity[one.key_sparsity].value,
                    "perplexity": scored.perplexity,
                    "agreement": scored.agreement(full),
                    "bytes": held,
                    "share": held / full_bytes,
                    "coded_share": one.far_fraction(shape.head_dim),
                }
            )
            advance()
    return rows


def print_evaluation(rows: Sequence[dict[str, Any]], as_json: bool, title: str) -> None:
    """Print the rows as a table, or as one JSON document."""
    if as_json:
        json.dump(rows, sys.stdout, indent=1)
        print()
        return
    from rich.text import Text

    columns = {
        "cache": "cache",
        "key_error": "key error",
        "value_error": "value error",
        "perplexity": "perplexity",
        "agreement": "same choice",
        "bytes": "bytes",
        "share": "of float16",
        "coded_share": "coded part",
    }
    forms = {"bytes": "{:,}", "perplexity": "{:.3f}", "cache": "{}", "key_error": "{:.3f}", "value_error": "{:.3f}"}
    lines = [[forms.get(name, "{:.1%}").format(row[name]) if name in row else "" for name in columns] for row in rows]
    show(list(columns.values()), lines, title=Text(title), whole=1, wrap=False)
