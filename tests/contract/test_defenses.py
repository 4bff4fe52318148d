"""What every defense and score keeps: the facts it states are true, and it leaves no trace."""

import copy
import itertools
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

import redoubtable.evaluation  # noqa: F401 - registers what is calibrated
from redoubtable.attacks import ATTACKS
from redoubtable.defenses import DEFENSES, InputTransform
from redoubtable.detectors import SCORES, Rejecting
from redoubtable.gradients import fast_copy, input_gradient
from redoubtable.losses import aim, cross_entropy
from redoubtable.parts import Part, bare, facts_of, parts_of
from redoubtable.registry import Entry, settable
from redoubtable.seeding import seeded
from tests.networks import RandomScale, blobs, small_net

CLASSES = 4
IMAGES = 8


def variants(entry: Entry[Any]) -> Iterator[dict[str, Any]]:
    """Arguments for every combination of the named choices that an entry has, and its defaults.

    Names of other registered things, as in `score="entropy"`, keep their default.
    """
    choices = {
        name: typing.get_args(annotation)
        for name, annotation in settable(entry.obj).items()
        if typing.get_origin(annotation) is Literal
    }
    for values in itertools.product(*choices.values()):
        arguments = dict(zip(choices, values, strict=True))
        if "draws" in settable(entry.obj):
            arguments["draws"] = 3
        laws = {"rate": 0.4, "keep": 5}  # of masks: one or the other
        for law in [{k: v} for k, v in laws.items() if k in settable(entry.obj)] or [{}]:
            yield arguments | law


@dataclass(frozen=True)
class Guarded:
    """A defended model and the network inside."""

    model: nn.Module
    net: nn.Module


def build(entry: Entry[Any], arguments: dict[str, Any], inner: str, smooth: bool) -> Guarded:
    """Put a defense in front of or around a network, or around a random model."""
    net = small_net(smooth=smooth and not entry.facts.get("relus"))
    model = RandomScale(net, 3.0) if inner == "random" else net
    form = entry.facts["form"]
    if form == "transform":
        return Guarded(nn.Sequential(entry.obj(**arguments), model).eval(), net)
    if form == "wrapper":
        return Guarded(entry.obj(model, **arguments).eval(), net)
    if form == "rejecting":
        x = blobs(60, seed=5)
        with torch.no_grad(), seeded("calibrate"):
            y = net(x).argmax(1)
            return Guarded(entry.obj(model, x, y, **{**arguments, "level": 0.2}).eval(), net)
    raise AssertionError(f"{entry.name!r} has the form {form!r}; teach this test how to build it")


def score_guard(entry: Entry[Any], inner: str, smooth: bool) -> Guarded:
    net = small_net(smooth=smooth)
    model = RandomScale(net, 3.0) if inner == "random" else net
    own = [nn.Sequential(nn.Dropout(0.3), net)] if entry.facts["network"] else []
    fewer = {"draws": 3} if "draws" in settable(entry.obj) else {}
    return Guarded(Rejecting(model, entry.obj(*own, **fewer), 0.9).eval(), net)


Build = Callable[[bool], Guarded]


def cases() -> Iterator[Any]:
    for inner in ("deterministic", "random"):
        for entry in DEFENSES:
            for arguments in variants(entry):
                words = [str(v) for v in arguments.values() if isinstance(v, str)]
                words += [k for k in arguments if k == "keep"]
                name = "-".join([entry.name, *words, inner])

                def make(
                    smooth: bool,
                    entry: Entry[Any] = entry,
                    arguments: dict[str, Any] = arguments,
                    inner: str = inner,
                ) -> Guarded:
                    return build(entry, arguments, inner, smooth)

                yield pytest.param(make, id=name)
        for entry in SCORES:

            def score(smooth: bool, entry: Entry[Any] = entry, inner: str = inner) -> Guarded:
                return score_guard(entry, inner, smooth)

            yield pytest.param(score, id=f"score-{entry.name}-{inner}")


CASES = list(cases())
ABSTAINING = [c for c in CASES if facts_of(c.values[0](False).model).abstains]
every_defense = pytest.mark.parametrize("make", CASES)


@pytest.fixture
def images() -> Tensor:
    return blobs(IMAGES, seed=2)


def answer(model: nn.Module, x: Tensor, seed: int = 0) -> Tensor:
    """The outputs under a fixed random state."""
    with torch.no_grad(), seeded("answer", seed):
        return model(x)


# -- facts ---------------------------------------------------------------------------------------


@every_defense
def test_it_is_random_exactly_when_it_says_so(make: Build, images: Tensor) -> None:
    model = make(False).model
    looks = [answer(model, images, seed) for seed in range(4)]
    differ = any(not torch.equal(looks[0], look) for look in looks[1:])
    assert differ == facts_of(model).stochastic


@every_defense
def test_it_costs_the_passes_that_it_states(make: Build, images: Tensor) -> None:
    guarded = make(False)
    seen: list[int] = []
    guarded.net.register_forward_hook(lambda module, arguments, out: seen.append(len(out)))
    answer(guarded.model, images)
    assert sum(seen) == IMAGES * facts_of(guarded.model).passes


@every_defense
def test_it_has_one_output_more_than_classes_exactly_when_it_abstains(
    make: Build, images: Tensor
) -> None:
    model = make(False).model
    out = answer(model, images)
    assert out.shape == (IMAGES, CLASSES + facts_of(model).abstains)
    assert not out.isnan().any()


@every_defense
def test_an_image_sees_the_others_of_its_batch_only_when_it_says_so(
    make: Build, images: Tensor
) -> None:
    model = make(False).model
    others = torch.cat([images[:1], blobs(IMAGES - 1, seed=77)])
    alike = torch.allclose(answer(model, images)[0], answer(model, others)[0], atol=1e-5)
    assert alike != facts_of(model).batch_dependent


@every_defense
def test_the_gradient_is_true_or_a_surrogates(make: Build, images: Tensor) -> None:
    """Under fixed randomness autograd equals finite differences, if the defense says it is true.

    If it says that it is not, what attacks follow must not be the true slope of a step function:
    somewhere it has to point, and every value must be finite.
    """
    model, x = make(True).model.double(), (0.1 + 0.8 * images).double()
    weight = torch.randn(CLASSES, generator=torch.Generator().manual_seed(1)).double()

    def value(v: Tensor) -> Tensor:
        out: Tensor = model(v)[:, :CLASSES]
        return out.log_softmax(1) @ weight

    tracked = x.clone().requires_grad_()
    with seeded("slope"):
        (gradient,) = torch.autograd.grad(value(tracked).sum(), tracked)
    assert torch.isfinite(gradient).all()
    if not facts_of(model).differentiable:
        assert (gradient != 0).flatten(1).any(1).all()
        return
    g = torch.Generator().manual_seed(3)
    for _ in range(3):
        direction = torch.randn(x.shape, generator=g).double()
        step = 1e-6
        with torch.no_grad():
            with seeded("slope"):
                up = value(x + step * direction)
            with seeded("slope"):
                down = value(x - step * direction)
        expected = (up - down) / (2 * step)
        got = (gradient * direction).flatten(1).sum(1)
        assert torch.allclose(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", ABSTAINING)
def test_the_rejection_has_a_true_gradient_if_it_says_so(make: Build, images: Tensor) -> None:
    model, x = make(True).model.double(), (0.1 + 0.8 * images).double()

    def value(v: Tensor) -> Tensor:
        out: Tensor = model(v)
        return out[:, -1]

    tracked = x.clone().requires_grad_()
    with seeded("slope"):
        (gradient,) = torch.autograd.grad(value(tracked).sum(), tracked)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad():
        with seeded("slope"):
            up = value(x + 1e-6 * direction)
        with seeded("slope"):
            down = value(x - 1e-6 * direction)
    got = (gradient * direction).flatten(1).sum(1)
    true = torch.allclose(got, (up - down) / 2e-6, rtol=1e-4, atol=1e-5)
    assert true or not facts_of(model).differentiable
    assert (gradient != 0).flatten(1).any(1).all()


@every_defense
def test_a_part_that_breaks_the_graph_names_its_surrogate(make: Build, images: Tensor) -> None:
    for part in parts_of(make(False).model):
        if not isinstance(part, InputTransform) or part.facts.differentiable:
            continue
        assert type(part).surrogate is not InputTransform.surrogate
        tracked = images.clone().requires_grad_()
        with seeded("surrogate"):
            (got,) = torch.autograd.grad((part(tracked) ** 2).sum(), tracked)
        with seeded("surrogate"):
            value = part.transform(images)
        with seeded("surrogate"):
            smooth = part.surrogate(tracked)
        (expected,) = torch.autograd.grad(smooth, tracked, grad_outputs=2 * value)
        assert torch.allclose(got, expected, atol=1e-5)


@every_defense
def test_the_network_inside_comes_back_bit_for_bit(make: Build, images: Tensor) -> None:
    guarded = make(False)
    before = answer(guarded.model, images)
    assert parts_of(guarded.model)
    stripped = bare(guarded.model)
    assert not parts_of(stripped)
    assert torch.equal(answer(stripped, images), answer(guarded.net, images))
    assert {p.data_ptr() for p in stripped.parameters()} == {
        p.data_ptr() for p in guarded.net.parameters()
    }
    assert parts_of(guarded.model), "taking the defense out changed the defended model"
    assert torch.equal(before, answer(guarded.model, images))


@every_defense
def test_its_objectives_can_be_read_by_the_attacks(make: Build) -> None:
    for part in parts_of(make(False).model):
        for objective in part.objectives():
            bound = ATTACKS.bind(f"pgd:{objective}")
            assert set(bound.arguments) == {p.split("=")[0] for p in objective.split(",")}


# -- behaviour -----------------------------------------------------------------------------------


@every_defense
def test_a_single_image_and_odd_sizes(make: Build) -> None:
    model = make(False).model
    for shape in ((1, 3, 8, 8), (1, 3, 5, 7), (3, 3, 1, 6)):
        out = answer(model, blobs(*shape))
        assert out.shape == (shape[0], CLASSES + facts_of(model).abstains)
        assert not out.isnan().any()


@every_defense
def test_float64_in_is_float64_out(make: Build, images: Tensor) -> None:
    model = make(False).model.double()
    assert answer(model, images.double()).dtype == torch.float64


@every_defense
def test_a_deep_copy_is_the_same_model_and_its_own(make: Build, images: Tensor) -> None:
    model = make(False).model
    twin = copy.deepcopy(model)
    assert torch.equal(answer(model, images), answer(twin, images))
    assert facts_of(twin) == facts_of(model)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert not torch.equal(answer(model, images), answer(twin, images))


@every_defense
def test_a_fast_copy_answers_alike(make: Build, images: Tensor) -> None:
    model = make(False).model
    quick = fast_copy(model, images)
    assert facts_of(quick) == facts_of(model)
    if facts_of(model).differentiable:  # rounding may tip a step
        assert torch.allclose(answer(model, images), answer(quick, images), atol=1e-3)
    assert answer(quick, images).shape == answer(model, images).shape


@every_defense
def test_extreme_images_give_no_nan(make: Build) -> None:
    model = make(False).model
    for level in (0.0, 0.5, 1.0):
        x = torch.full((2, 3, 8, 8), level)
        assert not answer(model, x).isnan().any()
        slope = input_gradient(model, x, aim(cross_entropy, torch.tensor([0, 1]), None))
        assert torch.isfinite(slope.gradient).all()


@every_defense
def test_no_trace_is_left(make: Build, images: Tensor) -> None:
    model = make(False).model
    state = {k: v.clone() for k, v in model.state_dict().items()}
    flags = {n: m.training for n, m in model.named_modules()}
    kept = images.clone()
    answer(model, images)
    input_gradient(model, images, aim(cross_entropy, torch.zeros(IMAGES).long(), None))
    assert torch.equal(images, kept)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert {n: m.training for n, m in model.named_modules()} == flags
    assert all(p.grad is None for p in model.parameters())
    assert not any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules()
    )


@every_defense
def test_no_trace_is_left_after_an_exception(make: Build, images: Tensor) -> None:
    guarded = make(False)
    state = {k: v.clone() for k, v in guarded.model.state_dict().items()}
    before = answer(guarded.model, images)

    def fail(*_: Any) -> None:
        raise RuntimeError("the network broke")

    handle = guarded.net.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="the network broke"):
        guarded.model(images)
    handle.remove()
    assert torch.is_grad_enabled()
    assert all(torch.equal(v, state[k]) for k, v in guarded.model.state_dict().items())
    assert torch.equal(before, answer(guarded.model, images))


@every_defense
def test_its_text_shows_its_settings(make: Build) -> None:
    """A record names a model by its text; two settings must not look alike."""
    model = make(False).model
    for part in parts_of(model):
        for name, value in vars(part).items():
            if not name.startswith("_") and isinstance(value, int | float | str):
                if name == "training" or isinstance(part, RandomScale):
                    continue
                assert str(value) in part.extra_repr(), f"{type(part).__name__} hides {name}"


@pytest.mark.parametrize("entry", [*DEFENSES, *SCORES], ids=lambda e: e.name)
def test_it_says_what_it_is_and_what_is_known_against_it(entry: Entry[Any]) -> None:
    assert entry.summary.strip().endswith((".", "pass."))
    assert entry.facts["paper"]
    if isinstance(entry.obj, type) and issubclass(entry.obj, Part):
        assert "Known against it" in (entry.obj.__doc__ or "")
        assert entry.obj.facts is not Part.facts
