"""``superpose lexico``: train dictionaries for a model, and see what a cache written in them costs and keeps."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from superpose.cli.failures import say
from superpose.cli.options import DeviceOption, JsonOption, QuietOption, device_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

app = typer.Typer(help="Lexico: a key-value cache of sparse codes.", no_args_is_help=True)

ModelArgument = Annotated[str, typer.Argument(help="Registered name, local folder, .gguf file, or hub id.")]
TextOption = Annotated[list[Path], typer.Option("--text", help="A text file (may be repeated).")]
DtypeOption = Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")]
_CHUNK = 2**20  # characters that are tokenised at once


@app.callback()
def root() -> None:
    """Lexico: a key-value cache of sparse codes."""


@app.command("fit")
def fit(
    model: ModelArgument,
    text: TextOption,
    out: Annotated[Path, typer.Option("--out", help="Folder of the dictionary.")] = Path("lexico-dictionary"),
    atoms: Annotated[int, typer.Option("--atoms", help="Per dictionary, say 16 times the head dimension.")] = 1024,
    sparsity: Annotated[int, typer.Option("--sparsity", help="Atoms per vector while training.")] = 8,
    steps: Annotated[int, typer.Option("--steps", help="Updates; 0: sampled vectors as atoms.")] = 300,
    vectors: Annotated[int, typer.Option("--vectors", help="Keys, and values, per layer to train on.")] = 32768,
    length: Annotated[int, typer.Option("--length", help="Tokens per window of text.")] = 512,
    seed: Annotated[int, typer.Option("--seed", help="Of the draws.")] = 0,
    dtype: DtypeOption = "float32",
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Train one key and one value dictionary per layer on generic text; they serve every later prompt."""
    place = device_of(device)
    contents = _read(text)
    from superpose.experiment import Progress
    from superpose.inference import Dictionaries, DictionaryTrainer
    from superpose.models import load

    if out.exists():
        Dictionaries.check_folder(out)
    loaded = load(model, dtype, place, progress=None if quiet else say)
    trainer = DictionaryTrainer(loaded.model, atoms, sparsity, vectors=vectors, seed=seed)
    needed = -(-vectors // trainer.heads)
    windows = _windows(loaded.tokenizer, contents, length, needed)
    with Progress(quiet).bar("dictionaries", steps) as advance:
        made = trainer.fit(windows.split(1), steps, progress=lambda done, total: advance())
    print(made.save(out))
    if trainer.history is not None:
        first, last = (float(trainer.history.losses[at]) / (2 * trainer.layers) for at in (0, -1))
        say(f"relative squared error per vector: {first:.4f} at the first step, {last:.4f} at the last")
    say(f"use it: superpose lexico eval {model} --dictionary {out} --text FILE")


@app.command("eval")
def evaluate(
    model: ModelArgument,
    text: TextOption,
    dictionary: Annotated[Path, typer.Option("--dictionary", help="Folder that `fit` wrote.")],
    sparsities: Annotated[str, typer.Option("--sparsities", help="Atoms per vector: 2,4,8.")] = "2,4,8,12",
    windows: Annotated[int, typer.Option("--windows", help="Windows of text.")] = 4,
    length: Annotated[int, typer.Option("--length", help="Tokens per window.")] = 512,
    buffer: Annotated[int, typer.Option("--buffer", help="Most recent tokens kept exactly.")] = 128,
    block: Annotated[int, typer.Option("--block", help="Tokens coded together.")] = 32,
    coefficients: Annotated[str, typer.Option("--coefficients", help="fp8, int8 or fp16.")] = "fp8",
    dtype: DtypeOption = "float32",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Print errors, perplexity of token-by-token decoding and bytes, per number of atoms, beside the full cache."""
    from superpose.errors import InputError

    place = device_of(device)
    try:
        wanted = [int(s) for s in sparsities.split(",")]
    except ValueError as error:
        raise InputError(f"--sparsities is {sparsities!r}; allowed: whole numbers with commas between them") from error
    if not 0 <= buffer < length - 1 or windows < 1:
        raise InputError(f"--buffer is {buffer} and --windows {windows}; allowed: 0 to {length - 2}, and 1 or more")
    contents = _read(text)
    from superpose.cli.lexico_table import evaluation, print_evaluation
    from superpose.inference import Dictionaries, LexicoSettings
    from superpose.models import load

    made = Dictionaries.load(dictionary)
    settings = [
        LexicoSettings(s, s, buffer=buffer, block=block, coefficients=coefficients)  # type: ignore[arg-type]
        for s in wanted
    ]
    loaded = load(model, dtype, place, progress=None if quiet else say)
    tokens = _windows(loaded.tokenizer, contents, length, windows * length)[:windows].to(loaded.model.device)
    rows = evaluation(loaded.model, made.to(place), tokens, settings, quiet)
    print_evaluation(rows, as_json, f"{loaded.name}, {len(tokens)} windows of {length} tokens")
    say(f"the dictionaries take {made.nbytes():,} bytes in 16 bits, once per model, shared by all sessions")


def _read(paths: list[Path]) -> str:
    from superpose.errors import InputError

    for path in paths:
        if not path.is_file():
            raise InputError(f"--text is {str(path)!r}, which is not a file")
    try:
        whole = "\n\n".join(path.read_text(encoding="utf-8") for path in paths)
    except UnicodeDecodeError as error:
        raise InputError(f"--text holds a file that is not UTF-8 text: {error}") from error
    if not whole.strip():
        raise InputError(f"--text is {str(paths[0])!r}, which is empty")
    return whole


def _windows(tokenizer: "PreTrainedTokenizerBase", text: str, length: int, tokens: int) -> "Tensor":
    """Windows spread over a text, as many as hold so many tokens or as there are."""
    import torch

    from superpose.errors import InputError

    if length < 2:
        raise InputError(f"--length is {length}; allowed: 2 or more tokens")
    ids: list[int] = []
    for at in range(0, len(text), _CHUNK):
        ids += tokenizer(text[at : at + _CHUNK], add_special_tokens=False, verbose=False)["input_ids"]
    count = min(len(ids) // length, -(-tokens // length))
    if count == 0:
        raise InputError(f"--text has {len(ids)} tokens; one window needs {length} (--length)")
    starts = [round(i * (len(ids) - length) / max(1, count - 1)) for i in range(count)]
    return torch.tensor([ids[at : at + length] for at in starts])
