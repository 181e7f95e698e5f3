"""Checkpoint files: what is in them, and that none is ever half a file or half loaded."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from mindspore_thor import files
from mindspore_thor.errors import UserError
from mindspore_thor.files import shown
from mindspore_thor.run import checkpoint
from mindspore_thor.run.checkpoint import (
    Position,
    find_checkpoint,
    list_checkpoints,
    load_weights,
    prune_checkpoints,
    read_state,
    save_checkpoint,
    state_file_of,
    weights_file_of,
)
from mindspore_thor.run.ckpt_file import assign, load_file, save_file

SHAPES = {"layer.weight": (3, 2), "layer.bias": (3,)}


def small_net(outputs: int = 3) -> nn.Cell:
    net = nn.SequentialCell([nn.Dense(2, outputs)])
    net[0].weight.name, net[0].bias.name = "layer.weight", "layer.bias"
    return net


def state_of(net: nn.Cell, seed: int = 1) -> dict[str, Parameter]:
    """Every kind of value that a train step keeps: weights, scalars, counters, flags."""
    generator = np.random.default_rng(seed)
    state = dict(net.parameters_dict())
    for parameter in state.values():
        values = generator.standard_normal(parameter.shape).astype(np.float32)
        parameter.set_data(Tensor(values))
    extra = {
        "factor.A": generator.standard_normal((2, 2)).astype(np.float32),
        "trace": np.float32(generator.standard_normal()),
        "global_step": np.array([seed], np.int32),
        "skipped": np.int32(7 + seed),
        "stopped": np.array([True, False, seed == 1]),
    }
    for name, value in extra.items():
        state[name] = Parameter(Tensor(value), name=name, requires_grad=False)
    return state


def copies(state: dict[str, Parameter]) -> dict[str, np.ndarray]:
    return {name: value.asnumpy().copy() for name, value in state.items()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        one[k].dtype == other[k].dtype and one[k].tobytes() == other[k].tobytes() for k in one
    )


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    state = state_of(small_net())
    path = tmp_path / "net-3_12.ckpt"
    position = Position(epoch=3, step=12, steps_per_epoch=40, loss_sum=0.1 + 0.2, loss_count=2)
    position.metrics.append({"epoch": 1, "loss": 1 / 3})
    save_checkpoint(path, SHAPES, state, position)
    return path, copies(state)


def test_weights_load_into_the_plain_net_with_mindspore_alone(saved: Any) -> None:
    path, values = saved
    plain = nn.SequentialCell([nn.Dense(2, 3)])
    plain[0].weight.name, plain[0].bias.name = "layer.weight", "layer.bias"
    loaded = ms.load_checkpoint(str(path))
    assert set(loaded) == set(SHAPES)
    missing, unexpected = ms.load_param_into_net(plain, loaded, strict_load=True)
    assert not missing
    assert not unexpected
    assert same(copies(plain.parameters_dict()), {name: values[name] for name in SHAPES})


def test_state_and_position_come_back_bit_for_bit(saved: Any) -> None:
    path, values = saved
    target = state_of(small_net(), seed=2)
    assert not same(copies(target), values)
    position, stored = read_state(state_file_of(path))
    assign(target, stored, path)
    assert same(copies(target), values)
    assert (position.epoch, position.step, position.steps_per_epoch) == (3, 12, 40)
    assert position.loss_sum == 0.1 + 0.2
    assert position.metrics == [{"epoch": 1, "loss": 1 / 3}]


def test_only_the_two_files_are_left_behind(saved: Any) -> None:
    path, _ = saved
    assert sorted(os.listdir(path.parent)) == ["net-3_12.ckpt", "net-3_12.state.ckpt"]
    assert os.access(path, os.W_OK)


@pytest.mark.parametrize("fail_at", ["write", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_failed_write_leaves_the_old_file_and_no_litter(
    saved: Any, monkeypatch: pytest.MonkeyPatch, fail_at: str, number: int
) -> None:
    path, _ = saved
    before = path.read_bytes()
    original = os.write

    def half_written(handle: int, data: Any) -> int:
        if os.fstat(handle).st_size:
            raise OSError(number, os.strerror(number))
        return original(handle, data[: len(data) // 2])

    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    state = state_of(small_net(), seed=2)
    with monkeypatch.context() as patch:
        patch.setattr(files.os, fail_at, half_written if fail_at == "write" else fail)
        with pytest.raises(UserError) as caught:
            save_file(path, state)
    message = str(caught.value)
    assert shown(path, 70) in message and os.strerror(number) in message and "\n" not in message
    assert re.search(r"needs 0\.00\d MB, \d+\.\d+ MB are free", message)
    assert ("make room" in message) == (number != errno.EIO)
    assert path.read_bytes() == before
    assert sorted(os.listdir(path.parent)) == ["net-3_12.ckpt", "net-3_12.state.ckpt"]


def test_a_crash_between_the_two_files_leaves_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = state_of(small_net())
    save_checkpoint(tmp_path / "net-1_4.ckpt", SHAPES, state, Position(epoch=1, step=4))

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_weights", fail)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "net-2_4.ckpt", SHAPES, state, Position(epoch=2, step=4))
    assert find_checkpoint(tmp_path).name == "net-1_4.ckpt"


def test_every_truncation_and_a_flipped_bit_are_noticed(
    saved: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    path, _ = saved
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 3] ^= 4
    bad = path.with_name("bad.ckpt")
    whole = len(content) - 17  # without the CRC it is still a complete MindSpore checkpoint
    for size in set(range(len(content))) - {whole}:
        bad.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"bad\.ckpt.*(damaged|is missing)"):
            load_weights(small_net(), bad)
    bad.write_bytes(bytes(flipped))
    with pytest.raises(UserError, match="damaged"):
        load_weights(small_net(), bad)
    captured = capfd.readouterr()
    assert captured.err == ""
    assert captured.out == ""


def test_a_checkpoint_of_mindspore_itself_is_welcome(tmp_path: Path) -> None:
    net = small_net()
    values = copies(net.parameters_dict())
    ms.save_checkpoint(net, str(tmp_path / "plain.ckpt"))
    other = small_net()
    state_of(other, seed=5)
    load_weights(other, tmp_path / "plain.ckpt")
    assert same(copies(other.parameters_dict()), values)


def test_another_architecture_is_refused_as_a_whole(saved: Any) -> None:
    path, _ = saved
    wide = small_net(outputs=5)
    before = copies(wide.parameters_dict())
    with pytest.raises(UserError, match=r"layer\.weight has shape \(3, 2\), here \(5, 2\)"):
        load_weights(wide, path)
    assert same(copies(wide.parameters_dict()), before)


def test_many_differences_are_counted_not_listed(tmp_path: Path) -> None:
    many = {f"w{i}": Parameter(Tensor(np.zeros(2, np.float32)), name=f"w{i}") for i in range(9)}
    save_file(tmp_path / "many.ckpt", many)
    with pytest.raises(UserError) as caught:
        load_weights(small_net(), tmp_path / "many.ckpt")
    message = str(caught.value)
    assert "layer.weight is missing" in message
    assert "w0 is not in this net" in message
    assert "and 8 more" in message  # 2 missing and 9 unknown, of which 3 are shown
    assert "\n" not in message


def test_a_weights_file_is_no_training_state(saved: Any) -> None:
    path, _ = saved
    with pytest.raises(UserError, match="no training state"):
        read_state(path)


def test_wrong_paths_are_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no")
    for path, words in (
        (tmp_path / "none.ckpt", "no such checkpoint"),
        (tmp_path, "no checkpoint in this folder"),
        (tmp_path / "notes.txt", r"must end in \.ckpt"),
    ):
        with pytest.raises(UserError, match=words):
            find_checkpoint(path)
    with pytest.raises(UserError, match=r"no such checkpoint file; give an existing \.ckpt file$"):
        load_file(tmp_path / "none.ckpt")


def test_the_pair_is_found_from_either_file_and_from_the_folder(saved: Any) -> None:
    path, _ = saved
    state = state_file_of(path)
    assert state.name == "net-3_12.state.ckpt"
    assert weights_file_of(state) == path
    assert state_file_of(state) == state
    assert find_checkpoint(path) == find_checkpoint(state) == find_checkpoint(path.parent) == path


def test_the_latest_is_the_furthest_not_the_last_by_name(tmp_path: Path) -> None:
    for epoch, step in ((10, 4), (9, 40), (2, 300), (10, 12)):
        for suffix in (".ckpt", ".state.ckpt"):
            (tmp_path / f"resnet20-{epoch}_{step}{suffix}").touch()
    (tmp_path / "resnet20_best.ckpt").touch()
    (tmp_path / "resnet20-11_4.ckpt").touch()  # without its state: not a pair
    found = [(epoch, step) for epoch, step, _ in list_checkpoints(tmp_path)]
    assert found == [(2, 300), (9, 40), (10, 4), (10, 12)]
    prune_checkpoints(tmp_path, keep=2)
    assert {path.name for path in tmp_path.iterdir()} == {
        "resnet20_best.ckpt",
        "resnet20-11_4.ckpt",
        "resnet20-10_4.ckpt",
        "resnet20-10_4.state.ckpt",
        "resnet20-10_12.ckpt",
        "resnet20-10_12.state.ckpt",
    }
