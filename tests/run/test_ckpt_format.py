"""Checkpoint files that something has changed: refused in one line, never half taken."""

from __future__ import annotations

import binascii
import io
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mindspore import Parameter, Tensor, nn
from mindspore.train.checkpoint_pb2 import Checkpoint
from test_checkpoint import SHAPES, copies, same, small_net, state_of

from mindspore_thor.errors import UserError
from mindspore_thor.run import checkpoint
from mindspore_thor.run.checkpoint import (
    Position,
    load_weights,
    read_state,
    save_checkpoint,
    state_file_of,
)
from mindspore_thor.run.ckpt_file import assign, load_file, save_file
from mindspore_thor.run.ckpt_format import (
    CRC_BYTES,
    SEAL_BYTES,
    DamagedError,
    decode_file,
    encode_file,
)
from mindspore_thor.run.position import check_position, parse_position

# Every type that a parameter can have here.
KINDS = ("float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64")


def parameters() -> dict[str, Parameter]:
    generator = np.random.default_rng(0)
    found = {}
    for k, kind in enumerate((*KINDS, "bool_")):
        shape = [(), (1,), (3, 2), (1, 1, 4)][k % 4]
        values = Tensor(generator.integers(0, 2, shape), getattr(ms, kind))
        found[f"p.{kind}"] = Parameter(values, name=f"p.{kind}", requires_grad=False)
    return found


def raw(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value if isinstance(value, str) else (value.shape, value.dtype, value.get_bytes())
        for name, value in values.items()
    }


CONTENT = b"".join(encode_file(parameters(), {"text": '{"a": "\u00e9"}', "empty": ""}))
EXPECTED = raw({**parameters(), "text": '{"a": "\u00e9"}', "empty": ""})


def test_every_type_comes_back_and_mindspore_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "all.ckpt"
    save_file(path, parameters(), {"text": '{"a": "\u00e9"}', "empty": ""})
    assert path.read_bytes() == CONTENT
    assert raw(load_file(path)) == EXPECTED
    # MindSpore passes over the seal and finds its CRC right.
    assert raw(ms.load_checkpoint(str(path), crc_check=True)) == EXPECTED


def with_crc(body: bytes) -> bytes:
    return body + b"crc_num" + binascii.crc32(body).to_bytes(10, "big")


@st.composite
def changed_files(draw: st.DrawFn) -> bytes:
    """Bytes flipped, cut out or put in; with and without the seal; CRC kept, cut off, made anew."""
    content = bytearray(CONTENT[draw(st.sampled_from((0, SEAL_BYTES))) :])
    for _ in range(draw(st.integers(1, 3))):
        if not content:
            break
        first = draw(st.integers(0, len(content) - 1))
        kind = draw(st.sampled_from(("flip", "cut", "insert", "end")))
        if kind == "flip":
            content[first] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del content[first : first + draw(st.integers(1, 40))]
        elif kind == "insert":
            content[first:first] = draw(st.binary(min_size=1, max_size=20))
        else:
            del content[max(first, 1) :]
    crc = draw(st.sampled_from(("kept", "cut", "anew")))
    if crc == "kept":
        return bytes(content)
    body = bytes(content[:-CRC_BYTES])
    return body if crc == "cut" else with_crc(body)


@settings(max_examples=300, deadline=None)
@given(changed_files())
@example(CONTENT[:-CRC_BYTES])
@example(CONTENT)
@example(b"")
@example(CONTENT[len(CONTENT) // 2 :])
def test_a_changed_file_is_read_as_it_was_or_not_at_all(content: bytes) -> None:
    try:
        found = decode_file(io.BytesIO(content))
    except DamagedError:
        return
    # Without its seal nothing tells a changed number from the right one.
    assert not found.sealed or raw(found.values) == EXPECTED


def test_no_single_flip_passes_even_without_the_crc() -> None:
    for place in range(len(CONTENT) - CRC_BYTES):
        content = bytearray(CONTENT[:-CRC_BYTES])
        content[place] ^= 1 << (place % 8)
        with pytest.raises(DamagedError):
            decode_file(io.BytesIO(bytes(content)))


def crafted(dims: list[int], kind: str, data: bytes, name: str = "layer.bias") -> bytes:
    """A file of MindSpore's own make, with one entry that fits the small net and one that may."""
    message = Checkpoint()
    for tag, *rest in (("layer.weight", [3, 2], "Float32", bytes(24)), (name, dims, kind, data)):
        value = message.value.add()
        value.tag = tag
        value.tensor.dims.extend(rest[0])
        value.tensor.tensor_type, value.tensor.tensor_content = rest[1], rest[2]
    return with_crc(message.SerializeToString())


NAN = np.full(3, np.nan, np.float32).tobytes()
LARGE = 2**62


@pytest.mark.parametrize(
    ("dims", "kind", "data"),
    [
        ([-3], "Float32", bytes(12)),
        ([3, -1], "Float32", bytes(12)),
        ([0], "Float32", bytes(12)),
        ([0, 3], "Float32", b""),
        ([], "Float32", bytes(12)),
        ([4], "Float32", bytes(12)),
        ([2], "Float32", bytes(12)),
        ([LARGE, 4], "Float32", bytes(12)),
        ([LARGE, LARGE, LARGE], "Float32", b""),
        ([3] + 40 * [1], "Float32", bytes(12)),
        ([3], "Float16", bytes(12)),
        ([3], "Int8", bytes(12)),
        ([3], "Bool", bytes(12)),
        ([3], "Bool", b"\1\2\0"),
        ([3], "Int4", bytes(12)),
        ([3], "float32", bytes(12)),
        ([3], "", bytes(12)),
        ([3], "x" * 5000 + "\n\0", bytes(12)),
        ([3], "str", b"\xff" * 12),
        ([3], "Float32", b""),
        # Sound files, but not for this net.
        ([3], "Int32", bytes(12)),
        ([3], "UInt32", bytes(12)),
        ([3], "Bool", bytes(3)),
        ([3], "str", "abc".encode("utf-32-le")),
        ([3, 1], "Float32", bytes(12)),
        ([3], "Float32", NAN),
        ([3], "Float32", np.array([0, np.inf, 0], np.float32).tobytes()),
        ([3], "Float64", np.array([0, 1e300, 0]).tobytes()),
        ([3], "BFloat16", b"\x80\x7f" * 3),
    ],
)
def test_crafted_tensors_are_refused_in_one_line(
    tmp_path: Path, dims: list[int], kind: str, data: bytes
) -> None:
    path = tmp_path / "crafted.ckpt"
    path.write_bytes(crafted(dims, kind, data))
    net = small_net()
    before = copies(net.parameters_dict())
    with pytest.raises(UserError, match=r"crafted\.ckpt") as caught:
        load_weights(net, path)
    message = str(caught.value)
    assert "\n" not in message and message.isprintable() and len(message) <= 300
    assert same(copies(net.parameters_dict()), before)


@pytest.mark.parametrize("name", ["layer.weight", "", "x" * 4000, "a\nb\x1b[0m"])
def test_crafted_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / "crafted.ckpt"
    path.write_bytes(crafted([3], "Float32", bytes(12), name))
    with pytest.raises(UserError) as caught:
        load_weights(small_net(), path)
    assert str(caught.value).isprintable() and len(str(caught.value)) <= 300


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_weights_of_another_precision_are_welcome(tmp_path: Path, kind: str) -> None:
    net = small_net()
    values = {"layer.weight": [[0.5, -2], [0, 1], [3, 4]], "layer.bias": [0.25, -1, 7]}
    rows = [{"name": k, "data": Tensor(v, getattr(ms, kind))} for k, v in values.items()]
    ms.save_checkpoint(rows, str(tmp_path / "other.ckpt"))
    load_weights(net, tmp_path / "other.ckpt")
    for name, expected in values.items():
        found = net.parameters_dict()[name]
        assert found.dtype == ms.float32
        np.testing.assert_array_equal(found.asnumpy(), expected)


@pytest.mark.parametrize(
    ("error", "words"), [(OSError(5, "I/O error"), "I/O error"), (MemoryError(), "memory")]
)
def test_a_file_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def fail(_: Any) -> None:
        raise error

    path = tmp_path / "net.ckpt"
    path.write_bytes(CONTENT)
    monkeypatch.setattr("mindspore_thor.run.ckpt_file.decode_file", fail)
    with pytest.raises(UserError, match=rf"net\.ckpt: .*{words}"):
        load_file(path)


def test_large_tensors_are_stored_in_pieces_as_mindspore_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mindspore_thor.run.ckpt_format._SLICE", 8)
    net = small_net()
    values = copies(net.parameters_dict())
    save_file(tmp_path / "pieces.ckpt", net.parameters_dict())
    assert len(Checkpoint.FromString((tmp_path / "pieces.ckpt").read_bytes()[:-17]).value) == 5
    assert same(copies(load_file(tmp_path / "pieces.ckpt")), values)
    assert same(copies(ms.load_checkpoint(str(tmp_path / "pieces.ckpt"))), values)


def write_pair(folder: Path, step: int) -> tuple[nn.Cell, Path]:
    net = small_net()
    path = folder / f"net-1_{step}.ckpt"
    save_checkpoint(path, SHAPES, state_of(net, seed=step), Position(1, step, 40))
    return net, path


def test_weights_and_state_of_two_moments_are_no_pair(tmp_path: Path) -> None:
    _, eight = write_pair(tmp_path, 8)
    _, nine = write_pair(tmp_path, 9)
    state = state_file_of(eight)
    own = state.read_bytes()
    assert read_state(state)[0].step == 8
    state.write_bytes(state_file_of(nine).read_bytes())
    with pytest.raises(UserError, match="of another moment; use an earlier checkpoint"):
        read_state(state)
    state.write_bytes(own)
    ms.save_checkpoint(ms.load_checkpoint(str(nine)), str(eight))
    with pytest.raises(UserError, match="of another moment"):
        read_state(state)
    eight.unlink()
    assert read_state(state)[0].step == 8  # the state is enough by itself


def test_a_state_without_its_seal_is_refused(tmp_path: Path) -> None:
    _, path = write_pair(tmp_path, 8)
    state = state_file_of(path)
    content = state.read_bytes()
    body = content[SEAL_BYTES:-CRC_BYTES]
    for unsealed in (body, with_crc(body)):
        state.write_bytes(unsealed)
        assert load_file(state)
        with pytest.raises(UserError, match="changed, or written by an earlier release"):
            read_state(state)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_state_that_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    state = state_of(small_net())
    before = copies(state)
    factor = state["factor.A"].asnumpy().copy()
    factor[1, 0] = value
    broken = {**state, "factor.A": Parameter(Tensor(factor), name="factor.A")}
    save_checkpoint(tmp_path / "net-1_1.ckpt", SHAPES, broken, Position(1, 1, 4))
    path = tmp_path / "net-1_1.state.ckpt"
    with pytest.raises(UserError, match=r"factor\.A holds values that are not finite; use an ear"):
        assign(state, read_state(path)[1], path)
    assert same(copies(state), before)


ROW = {"epoch": 1, "step": 4, "loss": 0.5, "skipped": 0, "wall_clock": 2.0}
GOOD = asdict(
    Position(
        epoch=2,
        step=3,
        steps_per_epoch=4,
        config={"model": {"name": "mlp"}, "damping": None},
        metrics=[{**ROW, "top_1_accuracy": math.nan}],
        best_accuracy=0.5,
    )
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.just([]),
    st.just({}),
    st.just(10**400),
    st.lists(st.just({"epoch": 1}), max_size=2),
    st.dictionaries(st.sampled_from(["model", "epoch"]), st.integers(), max_size=2),
)


def accepted(text: str) -> Position | None:
    """What a resumed run would go on with; any other error than ValueError is a defect."""
    try:
        position = parse_position(text)
        check_position(position, 4)
    except ValueError as error:
        assert "\n" not in str(error)
        return None
    return position


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(GOOD)), LEAVES, st.booleans())
def test_every_value_of_a_position_is_checked(name: str, value: Any, in_row: bool) -> None:
    tree = json.loads(json.dumps(GOOD))
    if in_row:
        key = sorted(ROW)[len(name) % len(ROW)]
        tree["metrics"][0][key] = value
    else:
        tree[name] = value
    position = accepted(json.dumps(tree))
    if position is None:
        return
    for key in ("epoch", "step", "loss_count"):
        assert type(getattr(position, key)) is int
    assert 0 <= position.step <= 4
    assert [row["epoch"] for row in position.metrics] == list(range(1, len(position.metrics) + 1))
    assert position.epoch - 1 <= len(position.metrics) <= position.epoch
    for key in ("epoch_seconds", "wall_clock", "loss_sum"):
        assert math.isfinite(getattr(position, key))
    assert math.isfinite(position.best_accuracy or 0.0)
    assert all(isinstance(section, dict) for section in position.config.values() if section)


def test_positions_of_another_layout() -> None:
    assert accepted(json.dumps(GOOD)) is not None
    finished = {**GOOD, "epoch": 1, "step": 4}
    assert accepted(json.dumps(finished)) is not None
    without = {key: value for key, value in GOOD.items() if key != "epoch"}
    wrong: list[Any] = [without, {**GOOD, "more": 1}, [], None, 3, {**finished, "step": 3}]
    wrong += [{**GOOD, "epoch": 3}, {**GOOD, "epoch": 0, "metrics": []}, {**GOOD, "step": 5}]
    for tree in wrong:
        assert accepted(json.dumps(tree)) is None, tree
    for text in ("", "{", "\0", "[" * 100000, "1" * 100000, '{"epoch": NaN}'):
        assert accepted(text) is None


def test_a_wrong_position_in_a_sound_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "asdict", lambda _: {**GOOD, "epoch": "two"})
    path = tmp_path / "net-2_3.ckpt"
    save_checkpoint(path, SHAPES, state_of(small_net()), Position())
    with pytest.raises(UserError, match=r"damaged .*the epoch of its position is wrong"):
        read_state(state_file_of(path))
