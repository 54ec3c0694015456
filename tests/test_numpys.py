"""numpy's generator where the first to use it is the model that is checked: seeded all the same, and left unseeded."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("numpy")

CODE = """
import sys
import numpy as np
import torch
from torch import nn
from pytest_initcheck import check_init

class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(x) + float(np.random.rand())

class Drawn(nn.Linear):
    def __init__(self):
        super().__init__(4, 4)
        self.bias.data += float(np.random.rand())

torch.manual_seed(0)
model, inputs = {"passes": Noisy(4, 4), "factory": Drawn}[sys.argv[1]], torch.ones(6, 4)
report = check_init(model, inputs, ignore=["*"])
print(report.trace.output.mean, report.response.movement, report.response.sensitivity)
print(np.random.rand())
"""


@pytest.mark.parametrize("where", [pytest.param("passes", marks=pytest.mark.slow), "factory"])
def test_the_first_draw_of_a_process_is_seeded_and_later_ones_are_not(where: str):
    runs = [
        subprocess.run([sys.executable, "-c", CODE, where], capture_output=True, text=True, check=True) for _ in "ab"
    ]

    (one, after_one), (other, after_other) = (done.stdout.splitlines() for done in runs)

    assert one == other
    assert after_one != after_other


def test_a_generator_that_was_there_is_where_it_was():
    import numpy
    import torch

    from pytest_initcheck import check_init

    numpy.random.seed(7)
    wanted = numpy.random.rand()
    numpy.random.seed(7)

    check_init(torch.nn.Linear(4, 4), "6x4")

    assert numpy.random.rand() == wanted


def test_a_bit_generator_of_another_kind_is_seeded_and_where_it_was():
    import numpy
    import torch

    from pytest_initcheck import check_init

    class Noisy(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + float(numpy.random.randn())

    torch.manual_seed(0)
    own, model = numpy.random.get_bit_generator(), Noisy(4, 4)
    try:
        numpy.random.set_bit_generator(numpy.random.PCG64(7))
        numpy.random.randn()
        wanted = numpy.random.randn()
        reports = []
        for seed in (7, 8):
            numpy.random.set_bit_generator(numpy.random.PCG64(seed))
            numpy.random.randn()  # it keeps a second one for the next call
            reports.append(check_init(model, "6x4", ignore=["*"]))

        numpy.random.set_bit_generator(numpy.random.PCG64(7))
        numpy.random.randn()
        check_init(model, "6x4", ignore=["*"])

        assert numpy.random.randn() == wanted
    finally:
        numpy.random.set_bit_generator(own)

    one, other = (r.trace.output for r in reports)
    assert one == other


def test_a_state_that_no_seed_gives_is_put_back_too():
    import numpy
    import torch

    from pytest_initcheck import check_init

    check_init(torch.nn.Linear(4, 4), "6x4")
    numpy.random.seed(7)
    numpy.random.randn()  # it keeps a second one for the next call
    wanted = numpy.random.get_state()

    check_init(torch.nn.Linear(4, 4), "6x4")

    now = numpy.random.get_state()
    assert now[2:] == wanted[2:]
    assert (now[1] == wanted[1]).all()
