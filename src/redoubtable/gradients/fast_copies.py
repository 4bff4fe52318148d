"""Fast copies of a model: attacks search on them, and the true model confirms what they find."""

import copy
import operator
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from redoubtable.bfloat16 import warn_without_bfloat16
from redoubtable.gradients.rectified import Rectified, add_into
from redoubtable.parts import ManyDraws, networks_of
from redoubtable.seeding import seeded
from redoubtable.types import Images, Logits


class FastCopy(nn.Module):
    """A copy of a model to search on; what it finds is confirmed on `exact`.

    Attributes:
        exact: the true model, in its own precision; not a submodule.
    """

    exact: nn.Module

    def __init__(self, searched: nn.Module, exact: nn.Module) -> None:
        super().__init__()
        self.searched = searched
        object.__setattr__(self, "exact", exact)  # as a submodule its parts would count twice
        if isinstance(searched, ManyDraws):
            self.answers = self._answers

    def forward(self, x: Images) -> Logits:
        """Return the logits of the copy, in the precision of `x`."""
        out: Tensor = self.searched(x.contiguous(memory_format=torch.channels_last))
        return out.to(x.dtype)

    def _answers(self, x: Images, draws: int) -> Logits:
        model: Any = self.searched
        out: Tensor = model.answers(x.contiguous(memory_format=torch.channels_last), draws)
        return out.to(x.dtype)


def exact_model(model: nn.Module) -> nn.Module:
    """Return the model whose answer counts: `exact` of a fast copy, else the model itself."""
    return model.exact if isinstance(model, FastCopy) else model


def fast_copy(model: nn.Module, x: Images, precision: Literal["fp32", "bf16"] = "fp32") -> FastCopy:
    """Return a copy to attack: eval mode, no parameter gradients, folded, channels-last.

    Convolutions are joined with the batch norms after them wherever torch.fx can read the network
    and the joined form gives the same logits on `x`; the rest is copied as it is, so the copy is
    never another function than the model up to rounding. Parts of a defense are kept.

    Args:
        model: any classifier; it is left as it is.
        x: a few images of the kind to be attacked.
        precision: of the networks inside; with bf16 (8 bits of mantissa) what is found must be
            confirmed on the exact model, which the attacks do.
    """
    if precision == "bf16":
        warn_without_bfloat16(x.device)
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    with seeded("fast copy"):
        for network, seen in _inputs_of_networks(copied, x[:2].clone()).items():
            joined = _fold(network, seen)
            if precision == "bf16":
                joined = _LowPrecision(joined)
            copied = _swap(copied, network, joined)
    for module in copied.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    quick = FastCopy(copied, model)
    for module in quick.modules():
        # Not eval(): a module of the user's may refuse it, and its copy must do the same.
        if isinstance(module, _OURS) or type(module) is nn.Module:
            module.training = False
    return quick


class _LowPrecision(nn.Module):
    """A network in bfloat16 between float32 surroundings."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.network(x.to(torch.bfloat16))
        return out.to(x.dtype)


def _inputs_of_networks(model: nn.Module, x: Images) -> dict[nn.Module, Tensor]:
    """What each of the networks inside sees when `x` is shown to the model."""
    seen: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if len(arguments) == 1 and isinstance(arguments[0], Tensor):
            seen.setdefault(module, arguments[0].detach().clone())

    hooks = [m.register_forward_pre_hook(keep) for m in networks_of(model)]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _fold(network: nn.Module, x: Tensor) -> nn.Module:
    """The network with its batch norms joined into its convolutions, or itself."""
    hooked = any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    if hooked:  # tracing would lose them
        return network
    try:
        joined = _joined(network)
    except Exception:  # fx refuses data-dependent networks in many ways; they just stay as they are
        return network
    try:
        if _steady(network, x) and (_same(network, joined, x) or _same_in_double(network, x)):
            return joined if _sound(network, joined, x) else network
    except (RuntimeError, AttributeError, TypeError):
        pass  # without a tensor output or without a gradient there is nothing to compare
    return network


def _joined(network: nn.Module) -> fx.GraphModule:
    """The network as torch.fx reads it, joined and channels-last."""
    traced = fx.symbolic_trace(network)
    modules = dict(traced.named_modules())
    _join_batch_norms(traced, modules)
    _keep_formats(traced, modules)
    _overwrite(traced, modules)
    _rectify(traced)
    traced.graph.lint()
    traced.recompile()
    return traced


def _steady(network: nn.Module, x: Tensor) -> bool:
    """Whether a network answers every time alike; tracing would freeze one of its draws.

    Thirty looks: of a coin inside, all alike once in a billion.
    """
    with torch.no_grad():
        first = network(x)
        return all(torch.equal(first, network(x)) for _ in range(30))


def _same(
    network: nn.Module, traced: nn.Module, x: Tensor, rtol: float = 1e-3, atol: float = 1e-4
) -> bool:
    """Whether two networks give the same outputs and input gradients, up to rounding."""
    pairs = []
    for module in (network, traced):
        images = x.clone().requires_grad_()
        with torch.enable_grad():
            out = module(images)
            # Weights that differ from output to output, so that no two gradients cancel.
            weights = torch.linspace(1, 2, out.numel(), dtype=out.dtype, device=out.device)
            (slope,) = torch.autograd.grad((out.flatten() * weights).sum(), images)
        pairs.append((out.detach(), slope / slope.abs().max().clamp_min(1e-12)))
    (out, slope), (other, its) = pairs
    return torch.allclose(out, other, rtol=rtol, atol=atol) and torch.allclose(
        slope, its, rtol=10 * rtol, atol=10 * atol
    )


def _same_in_double(network: nn.Module, x: Tensor) -> bool:
    """Whether joining is exact but for rounding, which in a deep network tips ReLUs and so slopes.

    In double precision it does not, and what is then the same is so to nine digits.
    """
    double = copy.deepcopy(network).double()
    return _same(double, _joined(double), x.double(), rtol=1e-9, atol=1e-9)


def _sound(network: nn.Module, joined: nn.Module, x: Tensor) -> bool:
    """Whether the outputs in the precision at hand agree, beside the largest of them."""
    with torch.no_grad():
        out, other = network(x), joined(x)
        return bool((out - other).abs().max() <= 1e-3 * out.abs().max().clamp_min(0.1))


def _join_batch_norms(traced: fx.GraphModule, modules: dict[str, nn.Module]) -> None:
    """Fold every batch norm that alone follows a convolution into it."""
    for node in list(traced.graph.nodes):
        before = node.args[0] if len(node.args) == 1 else None
        if not isinstance(before, fx.Node) or len(before.users) > 1:
            continue
        conv, norm = modules.get(str(before.target)), modules.get(str(node.target))
        if not (isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
            continue
        if norm.track_running_stats and not norm.training:
            traced.set_submodule(str(before.target), fuse_conv_bn_eval(conv, norm))
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)


def _keep_formats(traced: fx.GraphModule, modules: dict[str, nn.Module]) -> None:
    """Let gradients stay channels-last where pooling and slicing would give them back otherwise.

    A residual network sums gradients over its shortcuts; two formats make each of these sums, and
    all that follows, several times slower.
    """
    traced.add_submodule("keep_format", _KeepFormat())
    for node in list(traced.graph.nodes):
        pools = isinstance(modules.get(str(node.target)), _POOLS) or node.target is operator.getitem
        if pools and isinstance(node.args[0], fx.Node):
            with traced.graph.inserting_before(node):
                kept = traced.graph.call_module("keep_format", (node.args[0],))
            node.update_arg(0, kept)


def _overwrite(traced: fx.GraphModule, modules: dict[str, nn.Module]) -> None:
    """Add and rectify within the memory of a convolution's output that nothing else reads.

    Neither a convolution nor a sum needs its output for its gradient.
    """
    ours: set[fx.Node] = set()  # whose output may be written over
    for node in traced.graph.nodes:
        if type(modules.get(str(node.target))) is nn.Conv2d:
            ours.add(node)
        mine = [a for a in node.args if isinstance(a, fx.Node) and a in ours and len(a.users) == 1]
        if not mine:
            continue
        if node.target is operator.add:
            other = node.args[1] if node.args[0] is mine[0] else node.args[0]
            node.target, node.args = add_into, (mine[0], other)
            ours.add(node)
        elif _is_relu(node, modules):
            node.op, node.target, node.kwargs = "call_function", torch.relu_, {}


def _rectify(traced: fx.GraphModule) -> None:
    """Make one call of a convolution, what is added to it, and the rectifier that follows."""
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        if node.target is not torch.relu_:
            continue
        inner = node.args[0]
        added = inner.args[1:] if inner.target is add_into else ()
        conv = inner.args[0] if added else inner
        if type(modules.get(str(conv.target))) is not nn.Conv2d or conv in added:
            continue
        name = f"rectified_{node.name}"  # its own: the network may use a convolution twice
        traced.add_submodule(name, Rectified(modules[str(conv.target)]))
        node.op, node.target, node.args = "call_module", name, (*conv.args, *added)
        for done in (inner, conv) if added else (conv,):
            traced.graph.erase_node(done)
    traced.delete_all_unused_submodules()


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    module = modules.get(str(node.target))
    return type(module) is nn.ReLU or node.target in (nn.functional.relu, torch.relu)


_POOLS = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveMaxPool2d)


class _KeepFormat(nn.Module):
    """The identity, whose gradient is channels-last where it has four axes."""

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Tensor) and x.ndim == 4 and x.requires_grad:
            x = x.view_as(x)
            x.register_hook(_channels_last)  # type: ignore[no-untyped-call]
        return x


def _channels_last(gradient: Tensor) -> Tensor:
    return gradient.contiguous(memory_format=torch.channels_last)


_OURS = (FastCopy, _LowPrecision, _KeepFormat, Rectified, fx.GraphModule)


def _swap(root: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """The tree with one submodule put in another's place, everywhere it stands."""
    if root is old:
        return new
    for name, child in list(root._modules.items()):  # named_children names a shared child once
        if child is old:
            setattr(root, name, new)
        elif child is not None and child is not new:
            _swap(child, old, new)
    return root
