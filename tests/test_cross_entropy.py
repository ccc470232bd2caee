"""The loss that turns logits into their gradient in place, against PyTorch's own."""

from __future__ import annotations

import pytest
import torch

from qalign_core.training import cross_entropy
from qalign_core.training.cross_entropy import weighted_nll


def example(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (37, 50) with some very large ones, targets, and weights of which some are 0."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(37, 50, generator=generator) * 5
    logits[3] += 500
    weights = torch.rand(37, generator=generator, dtype=torch.float64)
    weights[::5] = 0
    return logits.to(dtype), torch.randint(0, 50, (37,), generator=generator), weights


def plain(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (torch.nn.functional.cross_entropy(logits, targets, reduction="none") * weights).sum()


@pytest.mark.parametrize("chunk", [1, 150, 10**6])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 4e-3)]
)
def test_value_and_gradient(monkeypatch: pytest.MonkeyPatch, chunk: int, dtype: torch.dtype, tolerance: float) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK", {"cpu": chunk})
    logits, targets, weights = example(dtype)
    leaf = logits.clone().requires_grad_()
    expected = plain(leaf, targets, weights) / 4
    expected.backward()
    ours = logits.clone().requires_grad_()
    loss = weighted_nll(ours * 1, targets, weights) / 4  # `* 1`: logits are never a leaf
    loss.backward()
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.grad, leaf.grad, rtol=tolerance, atol=tolerance)


def test_the_logits_memory_is_used_again_and_only_once() -> None:
    logits, targets, weights = example(torch.float32)
    leaf = logits.requires_grad_()
    product = leaf * 1
    loss = weighted_nll(product, targets, weights)
    loss.backward(retain_graph=True)
    torch.testing.assert_close(product.detach(), leaf.grad, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_without_targets_it_is_zero_and_has_a_gradient() -> None:
    leaf = torch.empty(0, 50, requires_grad=True)
    loss = weighted_nll(leaf * 1, torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.float64))
    loss.backward()
    assert loss.item() == 0
    assert leaf.grad.shape == (0, 50)
