"""What the masks of random subsampling cost beside the network: votes of ten, and certificates.

Paired (see timing.py): each round runs a vote of ten and ten plain passes over the same images, and
certifies one image from 10,000 samples beside as many plain passes of the same batches, cut into
the same pieces: whole they would be slower on a processor.

    python benchmarks/votes.py zoo/gtsrb-resnet20-subsampled zoo/digits-cnn --root DATA \
        --out results/votes.json

A vote should cost at most 1.1 times ten passes, certificates run at 0.9 of the plain rate or more.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from attacks import shown_command
from timing import rounds
from torch import nn

from redoubtable.certification import Ablation, certify
from redoubtable.data import load
from redoubtable.defenses import Subsample, Vote
from redoubtable.evaluation import environment
from redoubtable.files import write_json
from redoubtable.gradients import images_per_pass
from redoubtable.models import load_model, read_card
from redoubtable.types import Images

DRAWS = 10
LAWS: dict[str, dict[str, Any]] = {
    "pixel": {"rate": 0.9, "granularity": "pixel"},
    "element": {"rate": 0.9, "granularity": "element"},
    "keep": {"keep": 75, "granularity": "pixel"},
}


def votes(net: nn.Module, x: Images, repeats: int) -> dict[str, Any]:
    """Seconds of a vote, as a multiple of those of as many plain passes."""
    contenders = {
        law: Vote(nn.Sequential(Subsample(**settings), net), draws=DRAWS).eval()
        for law, settings in LAWS.items()
    }

    def plain() -> None:
        for _ in range(DRAWS):
            net(x)

    runs = {"plain": plain} | {k: (lambda m=m: m(x)) for k, m in contenders.items()}
    return _against_plain(rounds(runs, repeats), len(x) * DRAWS)


def certificates(
    net: nn.Module, x: Images, n0: int, n: int, batch_size: int, repeats: int
) -> dict[str, Any]:
    """Seconds of a certificate of one image, as a multiple of those of the passes in it."""
    sizes = [min(batch_size, m - k) for m in (n0, n) for k in range(0, m, batch_size)]
    copies = Ablation(0.9).sample(x[:1].expand(batch_size, *x.shape[1:]))

    def plain() -> None:
        for size in sizes:
            for piece in torch.split(copies[:size], images_per_pass(net, copies[:size], 1, None)):
                net(piece)

    def one(settings: dict[str, Any]) -> None:
        law = Ablation(**settings)
        certify(net, x[:1], law, n0=n0, n=n, alpha=0.05, batch_size=batch_size)

    runs = {"plain": plain} | {k: (lambda s=s: one(s)) for k, s in LAWS.items()}
    return _against_plain(rounds(runs, repeats), n0 + n)


def _against_plain(seconds: dict[str, list[float]], passes: int) -> dict[str, Any]:
    """Network passes a second, and how many times the plain seconds each round took."""
    found = {}
    for name, times in seconds.items():
        ratios = [t / p for t, p in zip(times, seconds["plain"], strict=True)]
        found[name] = {
            "passes_per_second": passes / statistics.median(times),
            "times_plain": statistics.median(ratios),
            "ratios": ratios,
            "seconds": times,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--images", type=int, default=51)
    parser.add_argument("--n0", type=int, default=1000)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("results/votes.json"))
    options = parser.parse_args()
    networks = {}
    for path in options.models:
        net = load_model(path).requires_grad_(False)
        x, _ = load(read_card(path).data["name"], "test", limit=options.images, root=options.root)
        with torch.no_grad():
            voted = votes(net, x, options.repeats)
        certified = certificates(net, x, options.n0, options.n, options.batch_size, options.repeats)
        networks[Path(path).name] = {"votes": voted, "certificates": certified}
        for law in LAWS:
            rate = 1 / certified[law]["times_plain"]
            print(
                f"{Path(path).name}, {law}: a vote of ten costs {voted[law]['times_plain']:.3f} "
                f"times ten passes, certificates run at {rate:.3f} of the plain rate"
            )
    write_json(
        options.out,
        {
            "command": shown_command("votes.py"),
            "networks": networks,
            "images": options.images,
            "draws": DRAWS,
            "n0": options.n0,
            "n": options.n,
            "batch_size": options.batch_size,
            "threads": torch.get_num_threads(),
            "seed": "of each round, its number",
            "environment": environment(),
        },
    )


if __name__ == "__main__":
    main()
