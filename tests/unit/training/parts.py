"""What the tests of training share."""

import dataclasses
import functools
import json

import torch
from torch import nn

from redoubtable.data import Dataset
from redoubtable.models import create
from redoubtable.seeding import seeded
from redoubtable.training import RECIPES, Settings, train

SETTINGS = Settings(epochs=4, batch_size=16, augment="crop+flip", seed=5)


def toy(n=70, split="train", classes=3, channels=1):
    """Images whose class is where the light is."""
    with seeded("toy", split, channels):
        labels = torch.arange(n) % classes
        images = torch.randint(0, 60, (n, channels, 9, 9), dtype=torch.uint8)
        for image, label in zip(images, labels.tolist(), strict=True):
            image[:, 3 * label : 3 * label + 3] += 150
    return Dataset("toy", split, images, labels, classes)


def fresh(seed=0, **arguments):
    with seeded("init", seed):
        return create("small_cnn", **{"width": 3, "classes": 3, **arguments})


def quiet(model, data, recipe, settings, **more):
    return train(model, data, recipe, settings, progress=False, **more)


SETTINGS = Settings(epochs=4, batch_size=16, augment="crop+flip", seed=5)


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


class Killed(BaseException):
    pass


def dying(steps, recipe="subsampled"):
    """A recipe that is `recipe`, by name too, until the process dies in the given step."""
    bound = RECIPES.bind(recipe)
    inner = bound.entry.obj(**bound.arguments)
    count = 0

    def loss(model, x, y):
        nonlocal count
        count += 1
        if count > steps:
            raise Killed
        return inner(model, x, y)

    @functools.wraps(bound.entry.obj)  # of the same file, too
    def factory(**arguments):
        return dataclasses.replace(inner, loss=loss)

    return dataclasses.replace(bound, entry=dataclasses.replace(bound.entry, obj=factory))


def rows(folder):
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


class Spy(nn.Module):
    """Keeps what it sees."""

    def forward(self, x):
        self.x = x
        return x.flatten(1)[:, :3]
