"""What each arm of the study trains: models, tasks and recipes as plain data. Imports no torch."""

from typing import Any

from superpose.studies.looped_transformer.config import Config

LOOPED, TRANSFORMER = "looped", "transformer"
NO_INJECTION, LAST_LOOP, NO_RAMP = "no injection", "T = 1", "no loop curriculum"
ABLATIONS = (NO_INJECTION, LAST_LOOP, NO_RAMP)
BEYOND, FAR = 4, 10  # times b: how far a looped model is followed
LINEAR, SPARSE, NETWORK = "linear", "sparse-linear", "relu-2nn"


def task(config: Config, name: str) -> dict[str, Any]:
    """The settings of a task."""
    own = {
        LINEAR: {"dim": config.dim},
        SPARSE: {"dim": config.sparse_dim, "sparsity": config.sparsity},
        NETWORK: {"dim": config.dim, "hidden": config.hidden},
    }
    return {"name": name, "points": config.points, **own[name]}


def arm(config: Config, name: str) -> dict[str, Any]:
    """Model and recipe of an arm, as :func:`steps.trained` takes them."""
    model: dict[str, Any] = {"width": config.width, "heads": config.heads}
    recipe: dict[str, Any] = {"batch": config.batch, "dims_interval": config.dims_interval}
    if name == TRANSFORMER:
        model |= {"architecture": TRANSFORMER, "layers": config.layers}
        return {"model": model, "recipe": {**recipe, "rate": config.transformer_rate}}
    model |= {"architecture": LOOPED, "layers": 1, "loops": config.loops, "injection": "add"}
    recipe |= {"rate": config.looped_rate, "window": config.window, "loop_interval": config.loop_interval}
    if name == NO_INJECTION:
        model["injection"] = None
    if name == LAST_LOOP:
        recipe["window"] = 1
    if name == NO_RAMP:
        recipe["loop_interval"] = 0
    return {"model": model, "recipe": recipe}


def training(config: Config, name: str, task_name: str, seed: int) -> dict[str, Any]:
    """All arguments of the step that trains an arm of the comparison on a task."""
    on_linear = task_name == LINEAR
    steps = {
        (LOOPED, LINEAR): config.looped_steps,
        (TRANSFORMER, LINEAR): config.transformer_steps,
        (LOOPED, SPARSE): config.sparse_looped_steps,
        (TRANSFORMER, SPARSE): config.sparse_transformer_steps,
        (LOOPED, NETWORK): config.network_looped_steps,
        (TRANSFORMER, NETWORK): config.network_transformer_steps,
    }[name, task_name]
    probes = {"probe_prompts": config.probe_prompts, "probe_steps": config.probe_steps} if on_linear else {}
    far = {"far": FAR * config.loops, "look_at": config.ablation_steps} if on_linear and name == LOOPED else {}
    return _call(config, name, task_name, seed, steps) | probes | far


def ablation(config: Config, name: str, seed: int) -> dict[str, Any]:
    """All arguments of the step that trains a looped model without a part of the recipe."""
    return _call(config, name, LINEAR, seed, config.ablation_steps) | {"far": BEYOND * config.loops}


def _call(config: Config, name: str, task_name: str, seed: int, steps: int) -> dict[str, Any]:
    return {
        **arm(config, name),
        "task": task(config, task_name),
        "train_steps": steps,
        "evaluate_every": config.evaluate_every,
        "prompts": config.prompts,
        "seed": seed,
    }
