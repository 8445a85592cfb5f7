"""Mass on the highest component: of one layer, of given maps, and of tiny language models."""

import pytest
import torch

from superpose.errors import InputError
from superpose.interpret import retrieval_report
from superpose.models import OneLayerAttention
from superpose.theory import TokenPriorityGraph, graph_svm
from tiny import LAYERS, tiny_model

PROMPTS = [[1, 2, 0], [2, 3, 1, 0], [4, 0]]
GRAPH = TokenPriorityGraph.from_sequences(PROMPTS[:2], [1, 2], 5)


def test_given_attention_is_summed_over_the_component():
    maps = torch.tensor([[0.2, 0.3, 0.5, 0.0], [0.1, 0.2, 0.4, 0.3], [0.9, 0.1, 0.0, 0.0]])
    report = retrieval_report(maps, GRAPH, PROMPTS)
    assert report.top == ({1, 2}, {1, 2}, None)
    assert report.ordered.tolist() == [True, True, False]
    assert report.mass[:2].tolist() == pytest.approx([0.5, 0.5])
    assert report.mass[2].isnan() and report.uniform[2].isnan()
    assert report.uniform[:2].tolist() == pytest.approx([2 / 3, 2 / 4])
    assert float(report.mean) == pytest.approx(0.5)
    several = retrieval_report(maps.expand(3, 2, -1, -1), GRAPH, PROMPTS)
    assert several.mass.shape == (3, 2, 3) and several.mean.shape == (3, 2)


def test_a_layer_far_along_the_graph_svm_retrieves_everything():
    embeddings = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer = OneLayerAttention(embeddings)
    flat = retrieval_report(layer, GRAPH, PROMPTS)
    torch.testing.assert_close(flat.mass[:2], flat.uniform[:2])
    with torch.no_grad():
        layer.get_parameter("matrix").copy_(40 * graph_svm(embeddings, GRAPH))
    assert retrieval_report(layer, GRAPH, PROMPTS).mean > 1 - 1e-12


@pytest.mark.parametrize("shape", ["llama", "gpt2", "gpt_neox"])
def test_a_language_model_is_read_at_each_prompts_last_token(shape):
    model = tiny_model(shape)
    model.set_attn_implementation("eager")
    tokens = [7, 11, 20, 9, 30]
    report = retrieval_report(model, GRAPH, PROMPTS, model_tokens=tokens)
    assert report.mass.shape == (LAYERS, 4, 3)
    with torch.inference_mode():
        for at, (row, inside) in enumerate((([11, 20, 7], [1, 1, 0]), ([20, 9, 11, 7], [1, 0, 1, 0]))):
            maps = model(torch.tensor([row]), output_attentions=True).attentions
            wanted = torch.stack([one[0, :, -1] @ torch.tensor(inside).float() for one in maps])
            torch.testing.assert_close(report.mass[..., at], wanted.double(), rtol=0, atol=1e-5)
    one = retrieval_report(model, GRAPH, PROMPTS, layer=-1, head=2, model_tokens=tokens)
    torch.testing.assert_close(one.mass, report.mass[-1, 2], equal_nan=True)
    assert retrieval_report(model, GRAPH, PROMPTS, head=1, model_tokens=tokens).mass.shape == (LAYERS, 3)


def test_bad_input_is_refused():
    model = tiny_model("llama")
    with pytest.raises(InputError, match="attn_implementation='eager'"):
        retrieval_report(model, GRAPH, PROMPTS)
    with pytest.raises(InputError, match="layer is 3; allowed: 0 to 2"):
        retrieval_report(model, GRAPH, PROMPTS, layer=3)
    with pytest.raises(InputError, match="head is -5; allowed: 0 to 3"):
        retrieval_report(model, GRAPH, PROMPTS, head=-5)
    with pytest.raises(InputError, match="model_tokens has 2 entries; allowed: 5"):
        retrieval_report(model, GRAPH, PROMPTS, model_tokens=[1, 2])
    with pytest.raises(InputError, match="model_tokens holds 100000"):
        retrieval_report(model, GRAPH, PROMPTS, model_tokens=[1, 2, 3, 4, 100000])
    with pytest.raises(InputError, match=r"attention has shape \(2, 4\)"):
        retrieval_report(torch.ones(2, 4), GRAPH, PROMPTS)
    with pytest.raises(InputError, match="for language models"):
        retrieval_report(torch.ones(3, 4), GRAPH, PROMPTS, layer=1)
    with pytest.raises(InputError, match="the graph orders none of them"):
        retrieval_report(torch.ones(1, 2), GRAPH, [[4, 0]])
    with pytest.raises(InputError, match="holds the token 6"):
        retrieval_report(torch.ones(1, 2), GRAPH, [[6, 0]])
