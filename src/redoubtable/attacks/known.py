"""Images that were made before, in the form of an attack."""

import hashlib

import torch
from torch import nn

from redoubtable.threat import ThreatModel
from redoubtable.types import Images, Labels, check_images


class Known:
    """Gives adversarial images that were made before, whatever model is asked.

    So images made against one model can be judged on another by `evaluate`, which checks them like
    those of any attack. An image is recognised by its clean form.

    Args:
        x: (N, C, H, W) clean images.
        x_adv: (N, C, H, W) what was made of them.
        name: for tables and seeds.
        access: what made them knew of the model that is asked: "transfer" for another model's
            images; that model's own access for what is shown to it again, or to the same model with
            another threshold.

    Attributes:
        digest: of all images, by which an evaluation knows again what it has judged before.

    Raises:
        ValueError: `x_adv` has another shape, or there is no such access.
    """

    asks_model = False

    def __init__(self, x: Images, x_adv: Images, name: str, access: str = "transfer") -> None:
        check_images(x, "x")
        if x_adv.shape != x.shape:
            raise ValueError(f"`x_adv` must be {tuple(x.shape)}, got {tuple(x_adv.shape)}")
        if access not in ("gradient", "score", "label", "transfer"):
            raise ValueError(f"`access` must be gradient, score, label or transfer, got {access!r}")
        self.name, self.access = name, access
        self._made = dict(zip(map(_digest, x), x_adv, strict=True))
        whole = hashlib.sha256(b"".join(self._made) + b"".join(map(_digest, x_adv)))
        self.digest = whole.hexdigest()

    def __call__(self, model: nn.Module, x: Images, y: Labels, threat: ThreatModel) -> Images:
        """Return (N, C, H, W): what is known of each of the images.

        Raises:
            ValueError: nothing is known of an image.
        """
        found = [self._made.get(_digest(image)) for image in x]
        missing = sum(one is None for one in found)
        if missing:
            raise ValueError(
                f"{self.name!r} knows nothing of {missing} of {len(x)} images; give the clean "
                "images that it was made of"
            )
        return torch.stack([one for one in found if one is not None]).to(x)


def _digest(image: torch.Tensor) -> bytes:
    content = image.detach().float().cpu().contiguous().numpy().tobytes()
    return hashlib.sha256(content).digest()
