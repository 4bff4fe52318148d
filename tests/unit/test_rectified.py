"""Convolutions joined with what follows them are the calls they stand for."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from redoubtable.gradients import fast_copy, rectified
from redoubtable.gradients.rectified import Rectified
from redoubtable.models import create
from redoubtable.seeding import seeded
from tests.networks import blobs

OTHERS = {"nothing": None, "features": (4, 5, 4, 4), "a spread sum": (5, 1, 1), "a number": 0.5}


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("other", list(OTHERS))
def test_joined_calls_are_those_they_stand_for(other: str, precision: torch.dtype) -> None:
    """Without gradients as with them, where each call is made for itself."""
    with seeded("rectified"):
        conv = nn.Conv2d(3, 5, 3, stride=2, padding=1).to(precision).requires_grad_(False)
        shape = OTHERS[other]
        added = torch.randn(shape).to(precision) if isinstance(shape, tuple) else shape
        images = torch.randn(4, 3, 8, 8).to(precision)
    images = images.contiguous(memory_format=torch.channels_last)
    given, before = images.clone(), added.clone() if isinstance(added, Tensor) else added
    call = Rectified(conv)
    out = call(given) if added is None else call(given, added)
    plain = torch.relu(conv(images) + (0 if added is None else added))
    tolerance = 0.05 if precision == torch.bfloat16 else 1e-5
    assert torch.allclose(out, plain, rtol=tolerance, atol=tolerance)
    assert torch.equal(given, images)
    assert added is None or bool(torch.as_tensor(added == before).all())
    slope = torch.autograd.grad(call(given.requires_grad_(), added).sum(), given)[0]
    alike = torch.autograd.grad(
        torch.relu(conv(images.requires_grad_()) + (0 if added is None else added)).sum(), images
    )[0]
    assert torch.allclose(slope, alike, rtol=tolerance, atol=tolerance)


def test_calls_are_joined_only_where_the_library_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = nn.Conv2d(3, 5, 3).requires_grad_(False)
    images = blobs(4).contiguous(memory_format=torch.channels_last)
    calls: list[str] = []

    def noted(name: str) -> Callable[..., Tensor]:
        return lambda x, *rest: calls.append(name) or x  # type: ignore[func-returns-value]

    joined = noted("alone"), noted("sum"), lambda weight, *rest: weight
    monkeypatch.setattr(rectified, "joined_calls", lambda dtype: joined)
    call = Rectified(conv)
    with torch.no_grad():
        call(images)
        call(images, torch.zeros(4, 5, 6, 6))
    call(images)
    assert calls == ["alone", "sum", "alone"]
    with torch.no_grad():
        call(images, torch.zeros(5, 6, 6))  # it would spread
        call(images, 0.5)
        call(images.contiguous())  # of another order in memory
        call(images[:2], torch.zeros(1, 5, 6, 6))
    assert len(calls) == 3
    monkeypatch.setattr(rectified, "joined_calls", lambda dtype: None)
    assert len(Rectified(conv)(images)) == 4 and len(calls) == 3


def test_the_probe_knows_the_types_of_the_library() -> None:
    assert rectified.joined_calls(torch.float64) is None
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        assert rectified.joined_calls(torch.float32) is not None


class Seen(torch.overrides.TorchFunctionMode):
    """Counts rectifiers, as sampled features find them."""

    count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func is torch.relu_
        return func(*args, **(kwargs or {}))


def test_a_mode_over_functions_still_sees_rectifiers() -> None:
    quick = fast_copy(create("resnet20").eval(), blobs(2, 3, 8, 8))
    with torch.no_grad(), Seen() as seen:
        quick(blobs(2, 3, 8, 8))
    assert seen.count == 19


def test_weights_are_brought_into_order_anew_when_they_or_the_images_change() -> None:
    conv = nn.Conv2d(3, 5, 3, padding=1).requires_grad_(False)
    call = Rectified(conv)
    for images in (blobs(4), blobs(2), blobs(2, 3, 9, 7), blobs(4)):
        images = images.contiguous(memory_format=torch.channels_last)
        for change in (1.0, -2.0, 0.5):
            conv.weight.mul_(change)
            assert torch.allclose(call(images), torch.relu(conv(images)), atol=1e-5)
        conv.weight.data = -conv.weight  # of which torch counts no change
        assert torch.allclose(call(images), torch.relu(conv(images)), atol=1e-5)
    call.to(torch.bfloat16)
    assert call(images.to(torch.bfloat16)).dtype == torch.bfloat16


def test_a_used_call_can_be_copied() -> None:
    call, images = Rectified(nn.Conv2d(3, 5, 3)).requires_grad_(False), blobs(2)
    images = images.contiguous(memory_format=torch.channels_last)
    before = call(images)
    twin = copy.deepcopy(call)
    call.conv.weight.zero_()
    assert torch.equal(twin(images), before) and not torch.equal(call(images), before)
