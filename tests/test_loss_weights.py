"""What a token weighs in either loss, against hand-made cases and the collator's own weights."""

from __future__ import annotations

import numpy as np
import pytest
from test_supervision import examples, tiny_model

from qalign_core.supervision import IGNORED, Collator
from qalign_core.training.loss_weights import count_targets, gradient_cosines, shares_by_length


def test_without_neighbours_every_response_weighs_alike_in_paper() -> None:
    shares = shares_by_length([10, 30, 0], micro_batch=1, groups=2)
    assert shares["target tokens"].tolist() == ["10–10", "30–30"]
    assert shares["token"].tolist() == pytest.approx([25, 75])
    assert shares["paper"].tolist() == pytest.approx([50, 50])
    assert shares["one token"].tolist() == pytest.approx([2, 2 / 3])


def test_the_shares_are_the_collators_weights() -> None:
    rows = [{"input_ids": [1] * (n + 1), "labels": [IGNORED] + [1] * n} for n in range(2, 42)]
    targets = count_targets([row["labels"] for row in rows])
    order = np.random.default_rng(3).permutation(len(rows))
    batch = Collator(0, packing=False)([rows[index] for index in order])
    weights = 100 * (batch["weights"].sum(dim=1) / batch["items"]).numpy()
    shares = shares_by_length(targets, seed=3, groups=4)
    expected = [weights[np.isin(order, group)].sum() for group in np.arange(40).reshape(4, 10)]
    assert shares["paper"].tolist() == pytest.approx(expected)
    assert shares["one token"].is_monotonic_decreasing
    with pytest.raises(ValueError, match="3 examples|2 examples"):
        shares_by_length([5, 5, 5])


def test_gradients_of_the_two_losses_differ_and_are_alike_for_equal_lengths() -> None:
    model = tiny_model()
    rows = gradient_cosines(model, examples(16), sequences=8)
    assert len(rows) == 2
    assert all(0 < row["cosine"] < 0.9999 for row in rows)
    equal = [{"input_ids": [n, 4, 5, 6], "labels": [IGNORED, 4, 5, 6]} for n in range(3, 11)]
    (row,) = gradient_cosines(model, equal, sequences=8)
    assert (row["cosine"], row["length ratio"]) == pytest.approx((1, 1), abs=1e-5)
    assert row["paper"] == pytest.approx(row["token"], abs=1e-6)
    assert all(parameter.grad is None for parameter in model.parameters())
