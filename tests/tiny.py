"""Tiny randomly initialised models of every supported shape, and a tokenizer for them: no download."""

from pathlib import Path

import gguf
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

CONTEXT = 256
WIDTH = 32
LAYERS = 3
GEMMA_WINDOW = 16

_COMMON = {
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.15,
}
_SHAPES: dict[str, tuple[str, dict]] = {
    "llama": ("llama", _COMMON),
    "mistral": ("mistral", {**_COMMON, "sliding_window": None}),
    "qwen2": ("qwen2", _COMMON),
    "qwen3": ("qwen3", {**_COMMON, "head_dim": 8}),
    "gemma3": (
        "gemma3_text",
        {
            **_COMMON,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": GEMMA_WINDOW,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "gpt2": (
        "gpt2",
        {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": CONTEXT, "initializer_range": 0.15},
    ),
    "gpt_neox": ("gpt_neox", {k: v for k, v in _COMMON.items() if k != "num_key_value_heads"}),
}
TINY_SHAPES = tuple(_SHAPES)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character: printable ASCII, newline, a few accented letters; adds no special tokens."""
    characters = [chr(code) for code in range(32, 127)] + ["\n"] + list("éèêàâçùûîïôöüäëßñáíóúœ¿¡")
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", "<unk>", *characters])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def tiny_model(shape: str, vocab_size: int | None = None, seed: int = 0, **overrides: object) -> PreTrainedModel:
    """A three-layer float32 model in eval mode; `overrides` go to its config. Default vocabulary: the tokenizer's."""
    model_type, options = _SHAPES[shape]
    config = CONFIG_MAPPING[model_type](
        **{
            "vocab_size": len(tiny_tokenizer()) if vocab_size is None else vocab_size,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 1,
            **options,
            **overrides,
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def tiny_llama_dir(folder: Path, seed: int = 0) -> Path:
    """Save a tiny Llama and its tokenizer as a local folder that `superpose.models.load` reads."""
    tiny_model("llama", seed=seed).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def tiny_gguf(path: Path, model: PreTrainedModel) -> Path:
    """Write a tiny Qwen2-shaped model as an unquantised GGUF file with a byte-level tokenizer of 259 tokens."""
    config = model.config
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "<|endoftext|>", "<|im_start|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 257 + [3] * 2)
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(257)
    writer.add_pad_token_id(257)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        writer.add_tensor(names.get_name(key, (".weight", ".bias")), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
