"""Variables and devices of a job that are not there, or left over from another one."""

from __future__ import annotations

import logging
import socket

import mindspore as ms
import pytest

from mindspore_thor.errors import UserError
from mindspore_thor.parallel import setup
from mindspore_thor.runtime import prepare_target

WORKER = {
    "MS_ROLE": "MS_WORKER",
    "MS_WORKER_NUM": "2",
    "MS_SCHED_HOST": "127.0.0.1",
    "MS_SCHED_PORT": "8118",
}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"MS_ROLE": "x" * 9000}, r"MS_ROLE is 'xxx.*no role in a job"),
        ({"MS_WORKER_NUM": ""}, "MS_ROLE is MS_WORKER, but MS_WORKER_NUM does not say a number"),
        ({"MS_WORKER_NUM": "0"}, "MS_WORKER_NUM is '0', which is not a number of processes"),
        ({"MS_WORKER_NUM": "9" * 5000}, "MS_WORKER_NUM is '999"),
        ({"MS_SCHED_HOST": ""}, "MS_SCHED_HOST does not say the scheduler's address"),
        ({"MS_SCHED_HOST": "10.0.0.300"}, "MS_SCHED_HOST is '10.0.0.300', which is not the sched"),
        ({"MS_ROLE": "MS_SCHED", "MS_SCHED_PORT": "0"}, "MS_ROLE is MS_SCHED, but MS_SCHED_PORT"),
        ({"MS_SCHED_PORT": "123456789012"}, "MS_SCHED_PORT is '123456789012', which is not"),
    ],
)
def test_a_role_without_its_job_is_refused(changed: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        setup.check_role({**WORKER, **changed})
    text = str(caught.value)
    assert text.endswith(
        "unset MS_ROLE to train in this process alone, or start the job with msrun"
    )
    assert len(text) < 300


@pytest.mark.parametrize("environment", [{}, {"MS_ROLE": "", "RANK_ID": "x"}, WORKER])
def test_other_variables_are_no_obstacle(environment: dict[str, str]) -> None:
    setup.check_role(environment)


def test_a_scheduler_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "_PATIENCE", 0)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        where = {**WORKER, "MS_SCHED_PORT": str(server.getsockname()[1])}
        with pytest.raises(UserError, match=r"no scheduler answers at 127.0.0.1:\d+ \(Conn"):
            setup.find_scheduler(where)
        server.listen()
        setup.find_scheduler(where)


def test_a_device_that_is_not_there_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    here = ms.get_context("device_target")
    absent = [target for target in ("Ascend", "GPU") if not ms.hal.is_available(target)]
    assert absent  # no machine has both
    capfd.readouterr()
    for target in absent:
        with pytest.raises(UserError, match=f"device target {target}: this MindSpore .* has "):
            prepare_target(target)
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET
    assert ms.get_context("device_target") == here
