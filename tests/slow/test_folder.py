"""An image folder larger than memory is gone through in little of it.

pytest -m slow tests/slow/test_folder.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

N, SIDE, CLASSES = 20_000, 200, 4
GIB = 2**30

READ = """
import json, os, resource, sys
from pathlib import Path
import torch
from redoubtable.data import read

torch.set_num_threads(1)
limit, root, damaged = int(sys.argv[1]), sys.argv[2], sys.argv[3]
if limit:  # of what this process and each of its workers may allocate
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
data = read(root, "train", size=200, damaged=damaged, workers=2, sizes={"train": 20_000})
peak = seen = total = 0

def resident(pid):
    # Pages that processes share count once: each gets its share of them.
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * next(int(li.split()[1]) for li in text.splitlines() if li.startswith("Pss:"))

for step, (images, labels) in enumerate(data.batches(torch.arange(len(data)).split(100), "cpu", 2)):
    seen += len(images)
    total += images.numel()
    if step % 10 == 0:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        peak = max(peak, sum(resident(p) for p in ["self", *children]))
print(json.dumps({"seen": seen, "total": total, "peak": peak}))
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20,000 JPEG files, 2.2 GiB when they are decoded; most are links, to save time."""
    root = tmp_path_factory.mktemp("data") / "photos"
    random = np.random.default_rng(0)
    for label in range(CLASSES):
        (root / "train" / f"class{label}").mkdir(parents=True)
    made: list[Path] = []
    for i in range(N):
        path = root / "train" / f"class{i % CLASSES}" / f"{i:05}.jpg"
        if i < 500:
            small = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(small).resize((SIDE, SIDE)).save(path, quality=85)
            made.append(path)
        else:
            os.link(made[i % 500], path)
    return root


def walk(root: Path, limit: int) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", READ, str(limit), str(root), "refuse"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert not done.returncode, done.stderr[-2000:]
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="measured by Linux's proc")
def test_a_folder_larger_than_memory_is_read_in_little_of_it(photos: Path) -> None:
    found = walk(photos, 2 * GIB)
    assert found["seen"] == N and found["total"] == N * 3 * SIDE * SIDE > 2 * GIB
    # The limit is on what each process allocates; all together are resident in less than half.
    assert found["peak"] < GIB, found


@pytest.mark.slow
def test_the_limit_would_stop_a_set_held_in_memory(photos: Path) -> None:
    """The limit of the test above is one: what holds all images fails under it."""
    hold = READ.replace("peak = seen", "held = data.read(torch.arange(len(data)))\npeak = seen")
    done = subprocess.run(
        [sys.executable, "-c", hold, str(2 * GIB), str(photos), "unchecked"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode and "memory" in done.stderr.lower()


def limited(*arguments: str) -> str:
    """A command of `redoubt` whose processes may each allocate 2 GiB; what it prints."""
    command = [sys.executable, "-m", "redoubtable", *arguments]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -d 2097152 && exec "$@"', "limited", *command],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert not done.returncode, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_a_folder_larger_than_memory_trains_and_evaluates(photos: Path, tmp_path: Path) -> None:
    data = ["--data", str(photos), "--image-size", str(SIDE), "--device", "cpu"]
    split = ["--sizes", "train=19000,validation=500,test=500"]
    out, net = tmp_path / "model", ["--model", "small_cnn:width=2"]
    trained = limited("train", "--out", str(out), *data, *split, *net, "--epochs", "1", "--json")
    assert json.loads(trained)["loss"] < 3
    card = json.loads((out / "card.json").read_text())
    assert card["data"]["images"] == 19_000 and card["data"]["shape"] == [3, SIDE, SIDE]
    every = ["--sizes", f"test={N}", "--damaged", "unchecked", "--no-check", "--json"]
    every += ["--chunk", "64", "--batch-size", "64"]  # images that are floats at a time
    attack = ["--threat", "Linf:2/255", "--attack", "fgsm"]
    record = json.loads(limited("evaluate", str(out), *data, *every, *attack))
    assert record["data"]["n"] == N
    assert (
        record["adaptive"]["accuracy"]["one_shot"]["value"]
        <= record["clean"]["accuracy"]["one_shot"]["value"]
    )
