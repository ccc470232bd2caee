"""Linear layers trained in oneDNN give the products and gradients of PyTorch's own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from qalign_core.training import trained_linear
from qalign_core.training.trained_linear import TrainedLinear, speed_up_linear_layers


@pytest.fixture
def layers(monkeypatch: pytest.MonkeyPatch) -> nn.Sequential:
    """One layer with a bias and one without, whichever processor this is; and one that is too small."""
    monkeypatch.setattr(trained_linear, "is_supported", lambda: hasattr(torch.ops.mkldnn, "_linear_pointwise"))
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(128, 170), nn.SiLU(), nn.Linear(170, 300, bias=False), nn.Linear(300, 2))


def test_products_and_gradients(layers: nn.Sequential) -> None:
    plain = copy.deepcopy(layers)
    assert speed_up_linear_layers(layers) == 2
    assert [type(layer) for layer in layers] == [TrainedLinear, nn.SiLU, TrainedLinear, nn.Linear]
    assert layers.state_dict().keys() == plain.state_dict().keys()
    results = []
    for model in (layers, plain):
        inputs = torch.randn(1, 37, 128, generator=torch.Generator().manual_seed(1)).requires_grad_()
        output = model(inputs)
        output.square().sum().backward()
        results.append([output.detach(), inputs.grad, *(parameter.grad for parameter in model.parameters())])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_a_frozen_layer_passes_gradients_through(layers: nn.Sequential) -> None:
    speed_up_linear_layers(layers)
    layers.requires_grad_(False)
    inputs = torch.randn(5, 128, requires_grad=True)
    layers(inputs).sum().backward()
    assert inputs.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in layers.parameters())


def test_other_precisions_take_the_usual_way(layers: nn.Sequential) -> None:
    speed_up_linear_layers(layers)
    with torch.autocast("cpu", torch.bfloat16):
        assert layers(torch.randn(5, 128)).dtype == torch.bfloat16
    assert layers.double()(torch.randn(5, 128).double()).dtype == torch.float64
    assert speed_up_linear_layers(nn.Linear(256, 256, dtype=torch.bfloat16)) == 0


def test_where_it_is_not_supported_nothing_changes(layers: nn.Sequential, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained_linear, "is_supported", lambda: False)
    assert speed_up_linear_layers(layers) == 0
    assert type(layers[0]) is nn.Linear
