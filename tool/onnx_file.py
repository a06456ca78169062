"""Networks as ONNX, for programs without PyTorch."""

import io
import json
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tool.errors import InputError
from tool.writer import write_own

ROUNDING = 0.01  # of the largest value; more is another result
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

    The names of the classes, background first, are in the metadata ``class_names`` as JSON. The
    largest difference to PyTorch is logged.

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
    entry = model.metadata_props.add()
    entry.key, entry.value = "class_names", json.dumps(class_names)
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
    log.info("%s written", path)


def _exported(net: nn.Module, inputs: dict[str, Tensor], outputs: list[str]) -> bytes:
    """Return the file that PyTorch's exporter makes; one that it cannot make is an InputError."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's, of decisions that hold at every size
        given = {**inputs, **dict(zip(outputs, net(**inputs), strict=True))}
        try:
            torch.onnx.export(
                net,
                tuple(inputs.values()),
                buffer,
                dynamo=False,
                input_names=list(inputs),
                output_names=outputs,
                dynamic_axes={name: _free_axes(name, value) for name, value in given.items()},
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise InputError(f"PyTorch cannot export this network: {error}") from error
    return buffer.getvalue()


def _free_axes(name: str, value: Tensor) -> dict[int, str]:
    """Return what the file calls the axes whose lengths are free."""
    return {axis: f"{name}_{word}" for axis, word in AXES.items() if axis < value.ndim}
