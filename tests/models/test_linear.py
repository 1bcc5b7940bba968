"""Our matrix product equals torch's, to the rounding of float32."""

import pytest
import torch

from pipeline.models import linear as module
from pipeline.models.linear import linear


@pytest.mark.parametrize("has_onednn", [True, False])
@pytest.mark.parametrize("shape", [(1, 80, 3), (171, 512, 1536), (5, 560, 25_055)])
def test_a_product_equals_torchs(
    shape: tuple[int, int, int], has_onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HAS_ONEDNN", has_onednn and module._HAS_ONEDNN)
    n, d_in, d_out = shape
    generator = torch.Generator().manual_seed(n)
    x, weight = (torch.randn(rows, d_in, generator=generator) for rows in (n, d_out))
    bias = torch.randn(d_out, generator=generator)
    exact = x.double() @ weight.double().T
    torch.testing.assert_close(linear(x, weight), exact.float(), atol=5e-4, rtol=1e-5)
    torch.testing.assert_close(
        linear(x, weight, bias), (exact + bias).float(), atol=5e-4, rtol=1e-5
    )
