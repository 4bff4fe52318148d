import math

import pytest

from redoubtable.training import Settings
from redoubtable.training.settings import lr_factor


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"epochs": 1.5},
        {"batch_size": 0},
        {"lr": 0},
        {"lr": math.nan},
        {"momentum": 1.0},
        {"weight_decay": -1e-4},
        {"schedule": "linear"},
        {"augment": "rotate"},
        {"precision": "fp8"},
        {"optimizer": "sgdm"},
        {"clip": 0},
        {"ema": 1.0},
        {"milestones": (0,), "schedule": "steps", "epochs": 4},
        {"milestones": (4,), "schedule": "steps", "epochs": 4},
        {"milestones": (2, 2), "schedule": "steps", "epochs": 4},
        {"seed": -1},
    ],
)
def test_settings_refuse(bad):
    name = next(iter(bad))
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        Settings(**{"epochs": 1, **bad})


def test_schedules():
    def factors(schedule, milestones=None):
        settings = Settings(epochs=20, schedule=schedule, milestones=milestones)
        return [lr_factor(settings, step, 100) for step in range(100)]

    up = factors("one-cycle")
    assert up.index(max(up)) in (29, 30) and max(up) > 0.98
    assert up[:30] == sorted(up[:30]) and up[30:] == sorted(up[30:], reverse=True)
    assert 0 < up[0] < 0.02 and 0 < up[-1] < 0.001
    assert factors("cosine") == sorted(factors("cosine"), reverse=True)
    steps = factors("steps")
    assert [steps[i] for i in (0, 49, 50, 74, 75, 99)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    falls = factors("steps", (5, 19))
    assert [falls[i] for i in (0, 24, 25, 94, 95, 99)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    cyclic = factors("cyclic")
    assert cyclic[24] == pytest.approx(0.49) and cyclic[74] == pytest.approx(0.51)
    assert max(cyclic) == pytest.approx(0.99) and cyclic[0] == cyclic[-1] == pytest.approx(0.01)
    assert set(factors("constant")) == {1}
    with pytest.raises(ValueError, match=r"`milestones` are those of schedule \"steps\""):
        factors("cosine", (5,))
