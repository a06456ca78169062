"""Segmentation networks as ONNX, for programs without PyTorch."""

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

INPUT, OUTPUT = "picture", "logits"

log = logging.getLogger(__name__)


class _WholeNetwork(nn.Sequential):
    """Logits (1, C, H, W) of RGB in 0..255, (1, 3, H, W): with normalisation and resizing."""

    def forward(self, picture: Tensor) -> Tensor:
        (net,) = self
        return net.predict(net.prepare(picture)).float()


def write_onnx(path: Path, net: nn.Module, size: tuple[int, int], class_names: list[str]) -> None:
    """Write a network at one size of pictures, and compare it where onnxruntime is installed.

    The input ``picture`` is float32 (1, 3, H, W) RGB in 0..255, and the output ``logits`` float32
    (1, C, H, W). The names of the classes, background first, are in the metadata ``class_names``
    as JSON. The largest difference to PyTorch is logged.

    Args:
        path: of the file.
        net: on the CPU, evaluating; it has ``prepare`` and ``predict``.
        size: (H, W) of pictures.
        class_names: of the C classes.

    Raises:
        InputError: the package onnx is missing, or the file cannot be written.
    """
    try:
        import onnx
    except ImportError as error:
        raise InputError("--export needs the package onnx: pip install onnx") from error
    whole = _WholeNetwork(net).eval()
    picture = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) * 255
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's, of shapes that are constants on purpose
        names = {"input_names": [INPUT], "output_names": [OUTPUT]}
        torch.onnx.export(whole, (picture,), buffer, dynamo=False, **names)
        expected = whole(picture).numpy()
    model = onnx.load_from_string(buffer.getvalue())
    entry = model.metadata_props.add()
    entry.key, entry.value = "class_names", json.dumps(class_names)
    content = model.SerializeToString()
    write_own(path, lambda file: file.write(content))
    log.info("%s written", path)
    try:
        import onnxruntime
    except ImportError:
        return
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run([OUTPUT], {INPUT: picture.numpy()})
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    log.info("logits differ from PyTorch's by %.1e of the largest", difference)
