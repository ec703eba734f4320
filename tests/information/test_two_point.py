"""Two-point MI: against a dictionary of pairs, against exact values, and what bad input gets."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2m.information import pair_counts as pairs
from l2m.information import two_point
from l2m.information.entropy import METHODS, entropy
from l2m.information.two_point import shuffle, two_point_curves, two_point_mi


def naive_mi(documents, partners, distance, method="grassberger"):
    """I_TP by a dictionary of pairs, one at a time."""
    pair, first, second = Counter(), Counter(), Counter()
    for document, partner in zip(documents, partners, strict=True):
        for i in range(len(document) - distance):
            a, b = int(document[i]), int(partner[i + distance])
            pair[a, b] += 1
            first[a] += 1
            second[b] += 1
    h_first, h_second, h_pair = (
        entropy(list(counts.values()), method) for counts in (first, second, pair)
    )
    return h_first + h_second - h_pair


def books(sizes, vocabulary, seed=0, dtype=np.int64):
    rng = np.random.default_rng(seed)
    return [(rng.zipf(1.5, size) % vocabulary).astype(dtype) for size in sizes]


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=6),
    vocabulary=st.sampled_from([1, 2, 50, 2**16, 2**16 + 1, 2**20]),
    distance=st.integers(1, 30),
    method=st.sampled_from(METHODS),
    part=st.integers(1, 200),
    seed=st.integers(0, 99),
)
def test_agrees_with_a_dictionary_of_pairs(sizes, vocabulary, distance, method, part, seed):
    sizes = [*sizes, distance + 2, distance + 9]
    documents = books(sizes, vocabulary, seed)
    row = two_point_mi(documents, [distance], method, seed=seed, part=part).iloc[0]
    assert row["pairs"] == sum(max(size - distance, 0) for size in sizes)
    assert row["mi"] == pytest.approx(naive_mi(documents, documents, distance, method), abs=1e-9)
    partners = shuffle(documents, "across", seed)
    assert row["null"] == pytest.approx(naive_mi(documents, partners, distance, method), abs=1e-9)
    assert row["mi_corrected"] == row["mi"] - row["null"]


@pytest.mark.parametrize("vocabulary", [3000, 2**16, 2**18])
def test_torch_agrees_with_numpy(vocabulary):
    documents = books([5000, 0, 70, 3000], vocabulary)
    here = two_point_mi(documents, [1, 80])
    for part in (pairs.PART, 900):
        there = two_point_mi(documents, [1, 80], device="cpu", part=part)
        np.testing.assert_allclose(here, there, atol=1e-12)


@pytest.mark.parametrize("block", [7, 64])
def test_blocks_of_any_size_give_the_same(block, monkeypatch):
    documents = books([500, 3, 900, 64], 40)
    whole = two_point_mi(documents, [1, 13])
    monkeypatch.setattr(pairs, "BLOCK", block)
    monkeypatch.setattr(pairs, "SMALL", 5)
    np.testing.assert_allclose(whole, two_point_mi(documents, [1, 13], part=100), atol=1e-12)


@pytest.mark.parametrize("part", [pairs.PART, 300])
@pytest.mark.parametrize("device", [None, "cpu"])
def test_order_of_documents_and_threads_change_nothing(part, device, monkeypatch):
    documents, options = books([900, 3, 500, 64], 40), {"null": None, "device": device}
    whole = two_point_mi(documents, [1, 2, 13, 40], part=part, **options)
    monkeypatch.setattr(two_point, "WORKERS", 1)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        moved = two_point_mi([documents[i] for i in order], [1, 2, 13, 40], part=part, **options)
        assert (whole["mi"] - moved["mi"]).abs().max() == 0.0
        assert whole["pairs"].equals(moved["pairs"])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=200))
def test_run_lengths(values):
    keys = np.sort(np.array(values, np.uint32))
    counts, times = pairs.run_lengths(keys)
    assert dict(zip(counts, times, strict=True)) == Counter(Counter(values).values())


def test_memory_mapped_documents_are_read_as_they_are(tmp_path):
    document = books([4000], 500, dtype=np.uint16)[0]
    document.tofile(tmp_path / "ids")
    mapped = np.memmap(tmp_path / "ids", np.uint16, mode="r")
    pair = [mapped[:1500], mapped[1500:]]
    expected = two_point_mi([document[:1500], document[1500:]], [3])
    np.testing.assert_array_equal(two_point_mi(pair, [3]), expected)


def test_memory_is_bounded_by_the_part(tmp_path):
    """Sorted at once, the pairs take 8 MB of keys; in parts, an eighth and what a block takes."""
    import tracemalloc

    np.random.default_rng(0).integers(0, 2**12, 2**21, dtype=np.uint16).tofile(tmp_path / "ids")
    mapped = np.memmap(tmp_path / "ids", np.uint16, mode="r")
    peaks, values = [], []
    for part in (2**21, 2**18):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pairs, "BLOCK", 2**16)
            tracemalloc.start()
            patch.setattr(two_point, "WORKERS", 1)
            values.append(two_point_mi([mapped], [1], null=None, part=part)["mi"][0])
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert values[0] == pytest.approx(values[1], abs=1e-9)
    assert peaks[0] > 8e6 > 4e6 > peaks[1]


def test_exact_for_the_all_equal_source():
    """x_1 = x_2 = … has I_TP = log M at every distance (Sec. 4.4)."""
    documents = [np.full(200, symbol) for symbol in range(4)]
    table = two_point_mi(documents, [1, 50], "plugin", null="within")
    np.testing.assert_allclose(table["mi"], np.log(4))
    np.testing.assert_allclose(table["mi_corrected"], 0, atol=1e-12)


def test_markov_chain_within_its_error():
    """A symmetric binary chain: I_TP(d) = log 2 − h((1 + λ^d) / 2)."""
    rng = np.random.default_rng(1)
    stay = 0.9
    flips = rng.random((20, 5000)) > stay
    documents = list(np.cumsum(flips, axis=1) % 2)
    table = two_point_mi(documents, [1, 2, 4])
    same = (1 + (2 * stay - 1) ** table["distance"]) / 2
    truth = np.log(2) + same * np.log(same) + (1 - same) * np.log(1 - same)
    np.testing.assert_allclose(table["mi_corrected"], truth, atol=0.01)


def test_nulls_remove_what_they_should():
    """Books that only differ in vocabulary: a bias across, the vocabularies too within."""
    rng = np.random.default_rng(2)
    documents = [rng.integers(1000) + rng.integers(0, 300, 4000) for _ in range(10)]
    across, within, shift = (
        two_point_mi(documents, [5], null=null, seed=3).iloc[0]
        for null in ("across", "within", "shift")
    )
    assert across["mi_corrected"] > 0.1
    assert abs(within["mi_corrected"]) < 0.03
    assert abs(shift["mi_corrected"]) < 0.03


def test_shuffles_keep_what_they_should():
    documents = books([50, 0, 70], 30)
    across, within, shift = (shuffle(documents, null, 1) for null in ("across", "within", "shift"))
    for shuffled in (across, within, shift):
        assert [len(document) for document in shuffled] == [50, 0, 70]
        assert np.array_equal(*(np.sort(np.concatenate(d)) for d in (documents, shuffled)))
    for shuffled in (within, shift):
        for old, new in zip(documents, shuffled, strict=True):
            assert np.array_equal(np.sort(old), np.sort(new))
    assert np.array_equal(shuffle(documents, "across", 1)[0], across[0])


def test_without_null_there_is_no_correction():
    table = two_point_mi(books([90], 9), [1], null=None)
    assert table[["null", "mi_corrected"]].isna().to_numpy().all()


def test_one_document_gets_a_shift_null_and_says_so():
    documents = [*books([400], 20), np.array([], int)]
    with pytest.warns(UserWarning, match="single document"):
        table = two_point_mi(documents, [1])
    assert table["null"][0] == two_point_mi(documents, [1], null="shift")["null"][0]


@pytest.mark.parametrize(
    ("documents", "distances", "options", "error", "message"),
    [
        ([[1, 2, 3]], [3], {}, ValueError, "longest has 3 tokens"),
        ([[], []], [1], {}, ValueError, "longest has 0 tokens"),
        ([], [1], {}, ValueError, "longest has 0 tokens"),
        ([[1, -2, 3]], [1], {}, ValueError, "the token id -2"),
        ([[1, 2**25, 3]], [1], {}, ValueError, "33554432, not one up to 16777216"),
        ([[1.0, 2.0]], [1], {}, TypeError, "float64, not integer"),
        ([[[1, 2], [3, 4]]], [1], {}, ValueError, "2 dimensions"),
        ([[1, 2, 3]], [0], {}, ValueError, "at distance 0: a distance is at least 1"),
        ([[1, 2, 3]], [1.5], {}, TypeError, "integer, not 1.5"),
        ([[1, 2, 3]], [1], {"method": "best"}, ValueError, "not 'best'"),
        ([[1, 2, 3]], [1], {"null": "shuffled"}, ValueError, "not 'shuffled'"),
    ],
)
def test_bad_input(documents, distances, options, error, message):
    with pytest.raises(error, match=message):
        two_point_mi(documents, distances, **options)


def test_curves_leave_out_groups_of_neighbours():
    documents = books([300, 200, 250, 400, 350], 30)
    table = two_point_curves(documents, [1, 7], groups=2, seed=4)
    assert table["left_out"].tolist() == [-1, -1, 0, 0, 1, 1]
    for left_out, kept in ((-1, documents), (0, documents[3:]), (1, documents[:3])):
        part = table[table["left_out"] == left_out].reset_index()
        for null in ("across", "within"):
            expected = two_point_mi(kept, [1, 7], null=null, seed=4)
            np.testing.assert_array_equal(part[["pairs", "mi"]], expected[["pairs", "mi"]])
            np.testing.assert_array_equal(part[null], expected["null"])
    assert len(two_point_curves(documents, [1])) == 1
