"""precision=auto follows the processor's own report."""

import pytest
import torch

from leukemia.precision import autocast, resolve_precision


@pytest.mark.parametrize(
    ("avx512", "amx", "expected"),
    [(False, False, "32-true"), (True, False, "bf16-mixed"), (False, True, "bf16-mixed")],
)
def test_auto_is_bf16_on_a_processor_with_instructions_for_it(monkeypatch, avx512, amx, expected):
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    assert resolve_precision("auto", "cpu") == expected


@pytest.mark.parametrize(("supported", "expected"), [(False, "32-true"), (True, "bf16-mixed")])
def test_auto_is_bf16_on_a_gpu_that_has_it_in_hardware(monkeypatch, supported, expected):
    def report(including_emulation=True):
        return including_emulation or supported

    monkeypatch.setattr("torch.cuda.is_bf16_supported", report)
    assert resolve_precision("auto", "cuda") == expected


def test_auto_is_full_precision_on_anything_else(monkeypatch):
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: True)
    assert resolve_precision("auto", "mps") == "32-true"


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_given_precision_is_kept(precision):
    assert resolve_precision(precision, "cpu") == precision


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)],
)
def test_autocast_computes_in_the_precision_that_lightning_names(precision, dtype):
    with autocast("cpu", precision):
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == dtype
