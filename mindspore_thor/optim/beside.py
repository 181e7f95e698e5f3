"""Grafting for methods whose directions leave the backward pass: beside the gradients, then.

Such a method's direction comes in the place of the gradient. Grafting needs both: the gradients
stay what they are, and the directions are those of probes, which stand behind the weights in all
that is differentiated by. Layers of one shape are one batch here, too.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Callable, NamedTuple

from mindspore import Parameter

from mindspore_thor.curvature.direct import DirectCurvature
from mindspore_thor.layers.coverage import CoveredLayer
from mindspore_thor.optim.packing import Packing, packing_of


class Beside(NamedTuple):
    """Directions that come beside the gradients.

    Attributes:
        probes: what they are the gradients of, layer by layer, the weight's and then the bias's.
        members: the layers' names, group by group.
        gradients: how each group's gradients are packed.
        directions: how its directions are: indices go on behind the weights with ``probes``.
    """

    probes: tuple[Parameter, ...] = ()
    members: tuple[tuple[str, ...], ...] = ()
    gradients: tuple[Packing, ...] = ()
    directions: tuple[Packing, ...] = ()


def directions_beside(
    layers: Sequence[CoveredLayer],
    curvatures: Sequence[DirectCurvature],
    weights: Sequence[Parameter],
    with_bias: Callable[[CoveredLayer], bool],
    group_key: Callable[[CoveredLayer], Hashable],
) -> Beside:
    """Give every layer's curvature its probes, and say where directions and gradients are found.

    Args:
        layers: those whose directions leave the backward pass.
        curvatures: one for each of them.
        weights: the optimizer's.
        with_bias: whether a layer's bias is part of its direction.
        group_key: equal for layers that may be packed together.
    """
    probes: list[Parameter] = []
    places: dict[str, int] = {}
    members: dict[Hashable, list[CoveredLayer]] = {}
    for layer, curvature in zip(layers, curvatures):
        owned = [layer.weight, layer.bias] if with_bias(layer) else [layer.weight]
        curvature.add_direction_probes([tuple(weights[i].shape) for i in owned])
        places[layer.name] = len(weights) + len(probes)
        probes += curvature.direction_probes
        members.setdefault((group_key(layer), with_bias(layer)), []).append(layer)
    gradients, directions = [], []
    for found in members.values():
        packing = packing_of(found, weights, with_bias(found[0]))
        first = tuple(places[layer.name] for layer in found)
        biases = tuple(i + 1 for i in first) if packing.biases else ()
        gradients.append(packing)
        directions.append(packing._replace(weights=first, biases=biases))
    names = tuple(tuple(layer.name for layer in found) for found in members.values())
    return Beside(tuple(probes), names, tuple(gradients), tuple(directions))
