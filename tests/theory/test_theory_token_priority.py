"""Graphs against brute-force reachability, their round trips, and what they refuse."""

import json

import networkx as nx
import pytest
import torch

from superpose.errors import InputError
from superpose.theory import NextTokenData, TokenPriorityGraph

# For query 0: 1 and 2 each follow where the other stands too; both stand above 3; 4 never occurs.
PROMPTS, LABELS = [[1, 2, 0], [2, 1, 0], [3, 1, 0]], [1, 2, 1]


def random_data(seed, vocabulary=6, prompts=6, length=4):
    draw = torch.Generator().manual_seed(seed)
    ids = torch.rand(prompts, vocabulary, generator=draw).argsort(1)[:, :length]
    labels = ids[torch.arange(prompts), torch.randint(length, (prompts,), generator=draw)]
    return NextTokenData.from_sequences(ids, labels, vocabulary)


def reachable(edges, start):
    found, waiting = {start}, [start]
    while waiting:
        at = waiting.pop()
        for i, j in edges:
            if i == at and j not in found:
                found.add(j)
                waiting.append(j)
    return found


def test_a_worked_example():
    graph = TokenPriorityGraph.from_sequences(PROMPTS, LABELS, 5)
    assert graph.queries == (0,)
    assert graph.edges[0] == ((1, 0), (1, 2), (1, 3), (2, 0), (2, 1))
    assert graph.components(0)[0] == {1, 2}
    assert sorted(map(sorted, graph.components(0))) == [[0], [1, 2], [3], [4]]
    assert [graph.relation(*pair, 0) for pair in ((1, 2), (2, 3), (0, 2), (0, 3), (4, 4))] == [
        "equal",
        "higher",
        "lower",
        "incomparable",
        "equal",
    ]
    assert not graph.is_acyclic
    assert graph.ties().tolist() == [[1, 2, 0]]
    assert graph.orders().tolist() == [[1, 0, 0], [1, 3, 0], [2, 0, 0]]
    assert graph.top([3, 2, 0], 0) == {2}
    assert graph.top([2, 1, 2, 0], 0) == {1, 2}
    assert graph.top([3, 0], 0) is None


@pytest.mark.parametrize("seed", range(20))
def test_relations_equal_reachability_by_hand(seed):
    data = random_data(seed, prompts=14)
    graph = TokenPriorityGraph.from_data(data)
    for k in graph.queries:
        edges = {
            (y, x) for row, y in zip(data.sequences, data.labels, strict=True) if row[-1] == k for x in row if x != y
        }
        assert set(graph.edges[k]) == edges == set(graph.graph(k).edges)
        reach = [reachable(edges, token) for token in range(6)]
        for i in range(6):
            for j in range(6):
                there, back = j in reach[i], i in reach[j]
                wanted = {(1, 1): "equal", (1, 0): "higher", (0, 1): "lower", (0, 0): "incomparable"}[there, back]
                assert graph.relation(i, j, k) == wanted
        order = graph.components(k)
        index = graph.component_index(k)
        assert sorted(token for members in order for token in members) == list(range(6))
        for i, j in edges:
            assert index[i] <= index[j]
        assert nx.is_directed_acyclic_graph(graph.condensation(k))


def test_the_top_of_every_training_prompt_is_the_component_of_its_label():
    for seed in range(10):
        data = random_data(seed)
        graph = TokenPriorityGraph.from_data(data)
        for row, label in zip(data.sequences, data.labels, strict=True):
            index = graph.component_index(row[-1])
            assert graph.top(row, row[-1]) == {token for token in row if index[token] == index[label]}


def test_acyclic_means_that_every_component_is_one_token():
    kinds = set()
    for seed in range(20):
        graph = TokenPriorityGraph.from_data(random_data(seed))
        assert graph.is_acyclic == all(len(graph.components(k)) == 6 for k in graph.queries) == (not len(graph.ties()))
        kinds.add(graph.is_acyclic)
    assert kinds == {True, False}


def test_ragged_lists_and_masked_matrices_are_one():
    ids = torch.tensor([[9, 1, 2, 0], [2, 1, 0, 9], [3, 1, 0, 9]])
    mask = ids != 9
    wanted = TokenPriorityGraph.from_sequences(PROMPTS, LABELS, 5)
    found = TokenPriorityGraph.from_sequences(ids, torch.tensor(LABELS), 5, mask=mask)
    assert found == wanted and hash(found) == hash(wanted)
    assert found != TokenPriorityGraph.from_sequences(PROMPTS, LABELS, 6)
    data = NextTokenData.from_sequences(ids, LABELS, 5, mask=mask)
    back, kept = data.padded()
    assert [row[keep].tolist() for row, keep in zip(back, kept, strict=True)] == PROMPTS
    assert data.counts.tolist()[0] == [1, 1, 1, 0, 0]


def test_dropping_prompts_without_their_label_keeps_the_rest():
    data = NextTokenData.from_sequences([[1, 2, 0], [2, 0], [3, 1, 0]], [1, 1, 1], 4, missing_label="drop")
    assert (data.sequences, data.labels, data.kept) == (((1, 2, 0), (3, 1, 0)), (1, 1), (0, 2))


def test_a_local_graph_starts_at_what_is_selected():
    attention = torch.tensor([[0.0, 0.5, 0.5, 0.0], [0.0, 0.9905, 0.0, 0.0095]])
    graph = TokenPriorityGraph.from_attention([[1, 2, 0], [3, 1, 0]], attention)
    # In the second prompt 3 has too little to be selected and too much to stand below.
    assert graph.edges == {0: ((1, 0), (1, 2), (2, 0), (2, 1))}
    labels = torch.nn.functional.one_hot(torch.tensor(LABELS), 5).double()
    assert TokenPriorityGraph.from_attention(PROMPTS, labels) == TokenPriorityGraph.from_sequences(PROMPTS, LABELS, 5)


def test_round_trip_through_json_and_a_drawing():
    graph = TokenPriorityGraph.from_sequences([*PROMPTS, [4]], [*LABELS, 4], 5)
    assert graph.queries == (0, 4) and graph.edges[4] == ()
    assert TokenPriorityGraph.from_dict(json.loads(json.dumps(graph.to_dict()))) == graph
    dot = graph.to_dot(0, names=["the", 'a "b"', "c", "d", "e"])
    assert dot.startswith('digraph "the" {') and dot.endswith("}\n")
    assert 'subgraph cluster_0 { "a \\"b\\""; "c"; }' in dot
    assert '"a \\"b\\"" -> "d";' in dot and '"e"' not in dot
    assert repr(graph) == "TokenPriorityGraph(vocab_size=5, queries=2, edges=5)"


@pytest.mark.parametrize(
    ("sequences", "labels", "size", "message"),
    [
        ([[0, 1]], [0], 1, "vocab_size is 1; allowed: at least 2"),
        ([[0, 1]], [0], 0, "vocab_size is 0"),
        ([], [], 3, "sequences is empty"),
        ([[0, 1], []], [0, 1], 3, r"sequences\[1\] is empty"),
        ([[0, 3]], [0], 3, r"sequences\[0\] holds the token 3; allowed: 0 to 2"),
        ([[0, -1]], [0], 3, "holds the token -1"),
        ([[0, 1]], [3], 3, r"labels\[0\] is 3; allowed: 0 to 2"),
        ([[0, 1], [1, 0]], [0, 2], 3, r"labels\[1\] is 2, which is not in its sequence \[1, 0\]"),
        ([[0, 1]], [0, 1], 3, "labels has 2 entries for 1 sequences"),
        (torch.tensor([0, 1]), [0], 3, r"shape \(2,\)"),
        (torch.tensor([[0.9, 1.7]]), [0], 3, r"sequences\[0\] holds 0.8999\d*; allowed: whole numbers"),
        ([[0, 1]], torch.tensor([[0, 1]]), 3, r"labels\[0\] holds \[0, 1\]; allowed: whole numbers"),
    ],
)
def test_bad_data_is_refused(sequences, labels, size, message):
    with pytest.raises(InputError, match=message):
        TokenPriorityGraph.from_sequences(sequences, labels, size)


def test_other_bad_input_is_refused():
    graph = TokenPriorityGraph.from_sequences(PROMPTS, LABELS, 5)
    with pytest.raises(InputError, match=r"query 1 has no data.*queries with data: 0"):
        graph.components(1)
    with pytest.raises(InputError, match="token 7 is not in the vocabulary"):
        graph.relation(7, 1, 0)
    with pytest.raises(InputError, match="missing_label is 'keep'; allowed: raise, drop"):
        TokenPriorityGraph.from_sequences(PROMPTS, LABELS, 5, missing_label="keep")
    with pytest.raises(InputError, match="no sequence holds its label"):
        NextTokenData.from_sequences([[0, 1]], [2], 3, missing_label="drop")
    with pytest.raises(InputError, match="mask has shape"):
        TokenPriorityGraph.from_sequences([[0, 1], [1]], [0, 1], 3, mask=torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(InputError, match="a loop at 2"):
        TokenPriorityGraph(3, {0: [(2, 2)]})
    with pytest.raises(InputError, match="name the token 5"):
        TokenPriorityGraph(3, {0: [(5, 2)]})
    with pytest.raises(InputError, match="not a token-priority graph"):
        TokenPriorityGraph.from_dict({"edges": {}})
    with pytest.raises(InputError, match="names has 2 entries; allowed: 5"):
        graph.to_dot(0, names=["a", "b"])
    with pytest.raises(InputError, match="selects no token"):
        TokenPriorityGraph.from_attention([[1, 0]], torch.zeros(1, 3))
    with pytest.raises(InputError, match=r"allowed: \[samples, vocabulary\], finite"):
        TokenPriorityGraph.from_attention([[1, 0]], torch.tensor([[0.5, torch.nan]]))
    with pytest.raises(InputError, match=r"unsure is 0.5 and selected 0.1"):
        TokenPriorityGraph.from_attention([[1, 0]], torch.ones(1, 3), selected=0.1, unsure=0.5)
    with pytest.raises(InputError, match="attention has 2 rows for 1 sequences"):
        TokenPriorityGraph.from_attention([[1, 0]], torch.ones(2, 3))
