import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from redoubtable.models import load_model
from redoubtable.training import Settings
from redoubtable.training.processes import Processes, synchronise, unwrapped
from tests.unit.training.parts import fresh, quiet, rows, same, state, toy
from tests.unit.training.together import CUT, LONG, plain, without_batch_statistics


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The folder that two processes wrote to, and what each of them found."""
    folder = tmp_path_factory.mktemp("pair")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    both = []
    for rank in range(2):
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
        variables = {k: str(v) for k, v in names.items()} | {"MASTER_ADDR": "localhost"}
        command = [sys.executable, "-m", "tests.unit.training.together", str(folder)]
        both.append(
            subprocess.Popen(
                command,
                env={**os.environ, **variables, "OMP_NUM_THREADS": "1"},
                cwd=Path(__file__).parents[3],
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        errors = [p.communicate(timeout=120)[1] for p in both]
    finally:
        for one in both:
            one.kill()
    assert all(p.returncode == 0 for p in both), errors
    return folder, [torch.load(folder / f"{r}.pt", weights_only=False) for r in range(2)]


def test_gradients_of_two_processes_are_those_of_one_on_the_joined_batch(pair):
    """At rate 1 without momentum the step is the gradient, of 70 images cut into 35 and 35."""
    start, alone = state(without_batch_statistics()), state(plain().model)
    for tensors, _ in pair[1]:
        for name, before in start.items():
            gradient, its = before - alone[name], before - tensors["step"][name]
            assert gradient.abs().max() > 1e-3
            torch.testing.assert_close(its, gradient, rtol=1e-4, atol=1e-6)


def test_uneven_shares_count_by_their_images(pair):
    """70 images in batches of 24, 23 and 23, the last two cut into 11 and 12."""
    alone = plain(LONG)
    for tensors, about in pair[1]:
        assert about["losses"] == pytest.approx([row.loss for row in alone.rows], rel=1e-3)
        for name, value in state(alone.model).items():
            torch.testing.assert_close(tensors["epochs"][name], value, rtol=1e-3, atol=1e-4)


def test_both_processes_have_the_same_model_and_the_first_one_kept_it(pair):
    folder, ((first, about), (second, other)) = pair
    accuracy = about["accuracy"]
    assert accuracy == other["accuracy"]
    for name in first:
        assert same(first[name], second[name]), name
    assert not same(first["fast"], first["trades:steps=1"])
    for recipe in ("trades:steps=1", "fast", "free:replays=2"):
        assert same(state(load_model(folder / recipe)), first[recipe])
    assert same(first["again"], first["fast"])
    assert [r["epoch"] for r in rows(folder / "fast")] == [1, 2]
    model = load_model(folder / "fast")
    x, y = toy(31, "validation").floats()
    assert accuracy == pytest.approx((model(x).argmax(1) == y).float().mean().item())


def test_a_run_of_two_processes_that_is_cut_ends_in_the_same_weights(pair):
    for tensors, _ in pair[1]:
        for recipe, _ in CUT:
            assert same(tensors[f"{recipe} cut"], tensors[f"{recipe} uncut"]), recipe


def test_every_process_draws_its_own_numbers(pair):
    ours, theirs = (about["draws"] for _, about in pair[1])
    assert len(ours) == len(theirs) == 6 and not {*ours} & {*theirs}


def test_what_the_first_process_refuses_every_process_does(pair):
    for _, about in pair[1]:
        assert "holds another training run: its batch_size is 24, not 70" in about["refused"]


def test_a_folder_in_use_is_refused_by_every_process(pair):
    """And both were not in each other's way in all the other runs."""
    for _, about in pair[1]:
        assert "is in use by the storing of process" in about["in use"]
    assert not list(pair[0].rglob(".lock"))


def test_a_run_of_two_processes_is_no_run_of_one(pair):
    folder = pair[0]
    with pytest.raises(ValueError, match="number of processes is 2, not 1"):
        quiet(fresh(), toy(), "fast", LONG, validation=toy(31, "validation"), out=folder / "fast")


def test_synchronised_batch_norms_share_the_models_tensors_and_go_again():
    model = fresh()
    before = state(model)
    own = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    processes = Processes(torch.device("cpu"))
    processes._replaced = synchronise(model)
    other = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
    assert len(other) == len(own) > 0 and same(before, state(model))
    with torch.no_grad():
        other[0].weight += 1
        other[0].running_mean += 1
    processes.release()
    assert [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)] == own
    assert (own[0].weight == 2).all() and (own[0].running_mean == 1).all()


def test_one_process_alone_shares_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    one, model = Processes(torch.device("cpu")), fresh()
    assert (one.count, one.rank, one.first) == (1, 0, True)
    assert one.wrap(model, torch.device("cpu")) is model is unwrapped(model)
    assert one.share(torch.arange(7)) == slice(0, 7)
    assert one.gather("a") == ["a"] and one.from_first(lambda: 3) == 3


@pytest.mark.parametrize(("n", "count"), [(7, 2), (8, 3), (3, 3)])
def test_shares_cover_a_batch_once_and_evenly(n, count):
    shares = []
    for rank in range(count):
        one = Processes(torch.device("cpu"))
        one.count, one.rank = count, rank
        shares.append(torch.arange(n)[one.share(torch.arange(n))])
    assert torch.equal(torch.cat(shares), torch.arange(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_batch_must_give_every_process_an_image(monkeypatch):
    from redoubtable.training import run

    class Three(Processes):
        def __init__(self, device):
            super().__init__(device)
            self.count = 3

    monkeypatch.setattr(run, "Processes", Three)
    with pytest.raises(ValueError, match="must give each of 3 processes an image, got 2"):
        quiet(fresh(), toy(), "natural", Settings(epochs=1, batch_size=2))
