"""``superpose serve``: an OpenAI-compatible server for one model."""

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from superpose.cli.failures import INTERRUPTED, say
from superpose.cli.options import DeviceOption, device_of

if TYPE_CHECKING:
    from superpose.models import LoadedModel
    from superpose.serving import ServerSettings

FITTED = Path("lexico-dictionary")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve")(serve)


def serve(
    model: Annotated[str, typer.Argument(help="Registered name, local folder, .gguf file, or hub id.")],
    cache: Annotated[str, typer.Option("--cache", help="dynamic or lexico.")] = "dynamic",
    dictionary: Annotated[
        Path | None,
        typer.Option(
            "--dictionary", help="Folder that `superpose lexico fit` wrote; default: ./lexico-dictionary, as it does."
        ),
    ] = None,
    sparsity: Annotated[int | None, typer.Option("--sparsity", help="Atoms per vector; for --cache lexico.")] = None,
    buffer: Annotated[int | None, typer.Option("--buffer", help="Last tokens kept exact; for --cache lexico.")] = None,
    batching: Annotated[str, typer.Option("--batching", help="fcfs, multi-bin or continuous.")] = "fcfs",
    bins: Annotated[
        str | None, typer.Option("--bins", help="Number of equal bins, or where they meet: 32,64,128 tokens.")
    ] = None,
    max_batch: Annotated[int, typer.Option("--max-batch", help="Most prompts in a batch.")] = 8,
    max_wait: Annotated[
        float, typer.Option("--max-wait", help="Milliseconds that a prompt waits for others while the model is free.")
    ] = 50.0,
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=2**16 - 1, help="0: any free one.")] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", help="Keys of which requests must carry one, a line each.")
    ] = None,
    queue: Annotated[int, typer.Option("--queue", help="Most prompts that may wait; more are refused.")] = 256,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds until an answer must be complete.")] = 300.0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Most tokens a request may ask for.")] = 1024,
    max_body: Annotated[int, typer.Option("--max-body", help="Most bytes of a request.")] = 2**20,
    drain: Annotated[float, typer.Option("--drain", help="Seconds for running requests at shutdown.")] = 30.0,
    name: Annotated[str | None, typer.Option("--name", help="What clients call the model.")] = None,
    plain_chat: Annotated[
        bool, typer.Option("--plain-chat", help="Chats as 'role: text' lines where the model has no template.")
    ] = False,
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")] = "float32",
    device: DeviceOption = "auto",
) -> None:
    """Answer OpenAI clients with one model, until SIGTERM or Ctrl-C."""
    from superpose.errors import InputError, choose, require
    from superpose.inference import uniform_edges

    for module in ("fastapi", "uvicorn", "prometheus_client"):
        require(module, "serve")
    choose("--cache", cache, ["dynamic", "lexico"])
    choose("--batching", batching, ["fcfs", "multi-bin", "continuous"])
    if batching == "continuous" and cache != "dynamic":
        raise InputError("--cache is 'lexico', but --batching continuous has a cache of its own; allowed: dynamic")
    if not max_wait >= 0:
        raise InputError(f"--max-wait is {max_wait}; allowed: 0 or more milliseconds")
    for option, count in (("--max-batch", max_batch), ("--queue", queue)):
        if count < 1:
            raise InputError(f"{option} is {count}; allowed: 1 or more")
    edges = _edges(bins, batching, max_tokens)
    if isinstance(edges, int):
        edges = uniform_edges(edges, 1, max_tokens + 1).tolist()
    settings = _settings(api_key_file, timeout=timeout, max_tokens=max_tokens, max_body=max_body, drain=drain)
    place = device_of(device)
    lexico = _lexico(cache, dictionary, sparsity, buffer)

    from dataclasses import replace

    from superpose.models import load
    from superpose.serving import build_engine
    from superpose.serving import serve as run
    from superpose.serving.server import LOOPBACK

    loaded = load(model, dtype=dtype, device=place, progress=say)
    engine = build_engine(
        loaded,
        batching=batching,
        edges=edges,
        max_batch=max_batch,
        max_wait=max_wait / 1000,
        queue=queue,
        cache=cache,
        plain_chat=plain_chat,
        **lexico,
    )
    settings = replace(settings, names=_names(model, name, loaded))
    if host not in LOOPBACK and not settings.api_keys:
        say(f"warning: everybody who reaches {host} may use this server; --api-key-file asks for a key")

    def ready(url: str) -> None:
        say(f"{settings.names[0]} answers at {url}/v1 ({batching}, {cache} cache); stop with Ctrl-C")

    import signal

    number = run(engine, settings, host, port, ready)
    say("stopped: every accepted request was answered or told why not")
    if number == signal.SIGINT:
        raise typer.Exit(INTERRUPTED)


def _edges(bins: str | None, batching: str, max_tokens: int) -> list[float] | int | None:
    """The bins' edges, or how many equal bins are asked for."""
    from superpose.errors import InputError

    if batching != "multi-bin":
        if bins is not None:
            raise InputError(f"--bins is {bins!r}, but --batching is {batching!r}; allowed: --bins with multi-bin only")
        return None
    text = "4" if bins is None else bins
    message = (
        f"--bins is {text!r}; allowed: a number of bins, or increasing lengths between 1 and {max_tokens}: 32,64,128"
    )
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(message) from error
    if len(numbers) == 1 and not text.endswith(","):
        if not 1 <= numbers[0] <= max_tokens:
            raise InputError(message)
        return numbers[0]
    inner = [1, *numbers, max_tokens + 1]
    if any(a >= b for a, b in pairwise(inner)):
        raise InputError(message)
    return [float(each) for each in inner]


def _settings(api_key_file: Path | None, **limits: Any) -> "ServerSettings":
    from superpose.serving import ServerSettings, read_api_keys

    keys = () if api_key_file is None else read_api_keys(api_key_file)
    return ServerSettings(names=("model",), api_keys=keys, **limits)


def _lexico(cache: str, dictionary: Path | None, sparsity: int | None, buffer: int | None) -> dict[str, Any]:
    from superpose.errors import InputError

    options = {"--dictionary": dictionary, "--sparsity": sparsity, "--buffer": buffer}
    if cache != "lexico":
        given = [option for option, value in options.items() if value is not None]
        if given:
            raise InputError(
                f"{given[0]} is given, but --cache is {cache!r}; allowed: {given[0]} with --cache lexico only"
            )
        return {}
    if dictionary is None:
        dictionary = FITTED
        if not dictionary.is_dir():
            raise InputError(
                f"--dictionary is missing, and there is no ./{FITTED}; --cache lexico needs a folder that "
                "`superpose lexico fit` wrote"
            )
    from superpose.inference import Dictionaries, LexicoSettings

    chosen: dict[str, Any] = {}
    if sparsity is not None:
        chosen |= {"key_sparsity": sparsity, "value_sparsity": sparsity}
    if buffer is not None:
        chosen |= {"buffer": buffer, "block": max(1, min(buffer, LexicoSettings().block))}
    return {"dictionaries": Dictionaries.load(dictionary), "lexico": LexicoSettings(**chosen)}


def _names(reference: str, name: str | None, loaded: "LoadedModel") -> tuple[str, ...]:
    """What clients may call the model: the given name; or its own, and the alias or hub id that was typed."""
    if name is not None:
        return (name,)
    typed = () if Path(reference).expanduser().exists() else (reference,)
    return tuple(dict.fromkeys((loaded.name, *typed)))
