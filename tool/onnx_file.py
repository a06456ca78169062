"""Networks as ONNX, for programs without PyTorch."""

import io
import json
import logging
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.onnx import register_custom_op_symbolic, symbolic_helper

from tool.errors import InputError
from tool.writer import write_own

ROUNDING = 0.01  # of the largest value; more is another result
INT64 = 7  # as ONNX numbers it
SINCE = 18  # ONNX's opsets resize with antialiasing
ANTIALIASED = "aten::_upsample_bicubic2d_aa"  # what ViTs fit their positions to a picture with
OUTSIDE = (
    "The dense CRF, means over scales, and the limits on a picture's size are not in this file, so "
    "masks differ somewhat from those of predict.py."
)
AXES = {0: "batch", 2: "height", 3: "width"}  # whose lengths are free

log = logging.getLogger(__name__)


def write_onnx(
    path: Path,
    net: nn.Module,
    inputs: dict[str, Tensor],
    outputs: list[str],
    class_names: list[str],
) -> None:
    """Write a network for pictures of any number and size, if it gives what PyTorch gives.

    The names of the classes, background first, are in the metadata ``class_names`` as JSON, and
    what stays outside in ``outside``. The largest difference to PyTorch is logged.

    Args:
        path: of the file.
        net: on the CPU, evaluating; it returns a tuple.
        inputs: an example of its arguments, in their order. The file is made by means of it, and
            compared by means of a part of its ``picture``, (B, 3, H, W).
        outputs: names of what the network returns.
        class_names: of the C classes.

    Raises:
        InputError: onnx or onnxruntime is missing, the exporter cannot express the network, or the
            file cannot be written.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise InputError("ONNX files need packages: pip install onnx onnxruntime") from error
    model = onnx.load_from_string(_exported(net, inputs, outputs))
    onnx.helper.set_model_props(model, {"class_names": json.dumps(class_names), "outside": OUTSIDE})
    content = model.SerializeToString()
    other = {**inputs, "picture": inputs["picture"][..., :200, :300]}
    with torch.no_grad():
        expected = net(**other)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = session.run(outputs, {name: value.numpy() for name, value in other.items()})
    for name, ours, theirs in zip(outputs, expected, found, strict=True):
        fits = theirs.shape == ours.shape
        difference = np.abs(theirs - ours.numpy()).max() if fits else np.inf
        if difference > ROUNDING * np.abs(theirs).max():
            raise InputError(
                f"{path} would hold a network whose {name} are wrong at other sizes of pictures: "
                "PyTorch cannot export this one so. Nothing is written."
            )
        log.info("%s: at most %.1e from PyTorch's", name, difference)
    write_own(path, lambda file: file.write(content))
    log.info("%s written. %s", path, OUTSIDE)


def _exported(net: nn.Module, inputs: dict[str, Tensor], outputs: list[str]) -> bytes:
    """Return the file that PyTorch's exporter makes; one that it cannot make is an InputError."""
    buffer = io.BytesIO()
    register_custom_op_symbolic(ANTIALIASED, _antialiased, SINCE)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's, of decisions that hold at every size
        given = {**inputs, **dict(zip(outputs, net(**inputs), strict=True))}
        free = {
            name: {axis: f"{name}_{word}" for axis, word in AXES.items() if axis < value.ndim}
            for name, value in given.items()
        }
        try:
            torch.onnx.export(
                net,
                tuple(inputs.values()),
                buffer,
                dynamo=False,
                input_names=list(inputs),
                output_names=outputs,
                dynamic_axes=free,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise InputError(f"PyTorch cannot export this network: {error}") from error
    return buffer.getvalue()


def _antialiased(graph, picture, size, *_):
    """Return ONNX's node for PyTorch's antialiased bicubic resizing of (B, C, H, W).

    Both follow Pillow, whose cubic coefficient is -0.5.
    """
    number = partial(graph.op, "Constant")
    first, second, none = (number(value_t=torch.tensor(at)) for at in ([0], [2], []))
    sides = [
        graph.op("Unsqueeze", graph.op("Cast", side, to_i=INT64), first)
        for side in symbolic_helper._unpack_list(size)
    ]
    others = graph.op("Slice", graph.op("Shape", picture), first, second, first)
    return graph.op(
        "Resize",
        picture,
        none,
        none,
        graph.op("Concat", others, *sides, axis_i=0),
        antialias_i=1,
        cubic_coeff_a_f=-0.5,
        exclude_outside_i=1,
        mode_s="cubic",
        coordinate_transformation_mode_s="half_pixel",
    )
