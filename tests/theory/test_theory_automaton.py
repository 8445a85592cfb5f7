"""The automaton against layers that were optimised to their limit, and against closed forms."""

import numpy as np
import pytest
import torch
from test_theory_graph_svm import rows
from test_theory_token_priority import random_data

from superpose.errors import InputError
from superpose.models import OneLayerAttention
from superpose.theory import AttentionAutomaton, regularisation_path


def limit_layer(embeddings, data, penalty=1e-12):
    layer = OneLayerAttention(embeddings)
    layer.load_state_dict({"matrix": regularisation_path(embeddings, data, [1e-3, 1e-6, 1e-9, penalty])[-1]}, False)
    return layer


@pytest.mark.parametrize("seed", range(6))
def test_it_predicts_a_layer_whose_loss_was_minimised(seed):
    data, embeddings = random_data(seed, prompts=12), rows(seed, kind="unit")
    automaton = AttentionAutomaton(embeddings).fit(data.sequences, data.labels)
    layer = limit_layer(embeddings, data)
    with torch.no_grad():
        trained = layer(*data.padded())
    predicted = automaton.predict_proba(data.sequences)
    assert (trained - predicted).abs().sum(1).max() / 2 < 1e-3
    assert predicted.sum(1).tolist() == pytest.approx([1.0] * len(data))
    # What is retrieved is the label's component.
    for row, label, kept in zip(data.sequences, data.labels, automaton.retrieved(data.sequences), strict=True):
        index = automaton.graph_.component_index(row[-1])
        assert {t for t in row if kept[t]} == {t for t in row if index[t] == index[label]}
    assert automaton.is_ordered(data.sequences).all()


def test_probabilities_in_a_component_are_counts_times_odds():
    embeddings = rows(1, 4, 5)
    automaton = AttentionAutomaton(embeddings).fit([[1, 2, 0]] * 4 + [[1, 3, 0]], [1, 1, 1, 2, 1])
    found = automaton.predict_proba([[1, 2, 0], [1, 2, 2, 2, 3, 0], [2, 3, 0], [3, 1, 1, 0]])
    wanted = [[0, 0.75, 0.25, 0], [0, 0.5, 0.5, 0], [0, 0, 1, 0], [0, 1, 0, 0]]
    assert found.numpy() == pytest.approx(np.array(wanted), abs=1e-9)
    assert automaton.predict([[1, 2, 0], [1, 2, 2, 2, 3, 0]]).tolist() == [1, 1]
    assert automaton.score([[1, 2, 0], [2, 3, 0]], [1, 3]) == 0.5


def test_prompts_that_the_data_do_not_order_are_flagged():
    automaton = AttentionAutomaton(rows(1, 5, 6)).fit([[1, 2, 0], [1, 3, 0]], [1, 1])
    prompts = [[1, 2, 0], [2, 3, 0], [1, 4, 0], [2, 1], [1, 3, 2, 2, 0]]
    assert automaton.is_ordered(prompts).tolist() == [True, False, False, False, True]
    assert automaton.predict_proba(prompts).sum(1).tolist() == pytest.approx([1.0] * 5)


def test_without_any_order_all_tokens_are_kept():
    automaton = AttentionAutomaton(rows(1, 3, 4)).fit([[1, 2], [1, 2]], [1, 2])
    assert not automaton.hard_.any()
    assert automaton.predict_proba([[1, 2], [1, 1, 0, 2]]).numpy() == pytest.approx(
        np.array([[0, 0.5, 0.5], [0.25, 0.5, 0.25]]), abs=1e-9
    )


def test_samples_follow_the_probabilities_and_feed_back():
    embeddings = rows(1, 4, 5)
    automaton = AttentionAutomaton(embeddings).fit([[1, 2, 0]] * 4, [1, 1, 1, 2])
    draw = torch.Generator().manual_seed(0)
    drawn = torch.cat([automaton.sample([1, 2, 0], 1, draw) for _ in range(400)])
    assert set(drawn.tolist()) == {1, 2}
    assert float((drawn == 1).double().mean()) == pytest.approx(0.75, abs=0.08)
    chain = AttentionAutomaton(embeddings).fit([[1, 0], [2, 0, 1], [0, 1, 2]], [1, 2, 0])
    assert chain.sample([2, 1, 0], 3, draw).tolist()[0] == 1
    again = [automaton.sample([1, 2, 0], 5, torch.Generator().manual_seed(3)).tolist() for _ in range(2)]
    assert again[0] == again[1] and len(again[0]) == 5


def test_both_solvers_and_scikit_learns_tools_work():
    from sklearn.base import clone

    data, embeddings = random_data(2, prompts=10), rows(2).numpy()
    torch_rows = torch.from_numpy(embeddings)
    one = AttentionAutomaton(torch_rows).fit(data.sequences, data.labels)
    other = clone(AttentionAutomaton(torch_rows, solver="cvxpy"), safe=False).fit(data.sequences, data.labels)
    assert other.solver == "cvxpy"
    torch.testing.assert_close(
        one.predict_proba(data.sequences), other.predict_proba(data.sequences), rtol=0, atol=1e-6
    )
    assert one.set_params(tolerance=1e-3).get_params()["tolerance"] == 1e-3


def test_bad_input_is_refused():
    embeddings = rows(0, 3, 4)
    with pytest.raises(InputError, match="not fitted"):
        AttentionAutomaton(embeddings).predict_proba([[0, 1]])
    with pytest.raises(InputError, match="solver is 'qp'"):
        AttentionAutomaton(embeddings, solver="qp")
    with pytest.raises(InputError, match="missing_label is 'skip'"):
        AttentionAutomaton(embeddings, missing_label="skip")
    with pytest.raises(InputError, match="tolerance is 0; allowed"):
        AttentionAutomaton(embeddings, tolerance=0)
    with pytest.raises(InputError, match="rank 2"):
        AttentionAutomaton(rows(0, 3, 2)).fit([[0, 1]], [0])
    with pytest.raises(InputError, match=r"labels\[0\] is 2, which is not in its sequence"):
        AttentionAutomaton(embeddings).fit([[0, 1]], [2])
    automaton = AttentionAutomaton(embeddings, missing_label="drop").fit([[0, 1], [1, 0]], [2, 1])
    assert automaton.data_.kept == (1,)
    with pytest.raises(InputError, match="holds the token 3"):
        automaton.predict([[3, 0]])
    with pytest.raises(InputError, match="tokens is 0"):
        automaton.sample([0, 1], 0)
    with pytest.raises(InputError, match="parameter is 'alpha'"):
        automaton.set_params(alpha=1)
    with pytest.raises(InputError, match="tolerance is 2"):
        automaton.set_params(tolerance=2)
    with pytest.raises(InputError, match="labels has 2 entries for 1"):
        automaton.score([[0, 1]], [0, 1])
