"""An exported model as a predictor: onnxruntime and numpy, no torch."""

import base64
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukemia.data.run_files import run_data
from leukemia.errors import InputError, quoted
from leukemia.evaluation.gate import Gate
from leukemia.evaluation.policy import Policy
from leukemia.inference.predictor import Outputs, Predictor

FORMAT = "leukemia.onnx.2"
LARGEST = 2**31  # bytes of a protobuf
MEMBERS = "member_logits"  # the output of an ensemble, (N, members)
DISTANCES = "distances"  # of the pooled features, (N, members that have a gate); see `Gate.distance`


class OnnxPredictor(Predictor):
    """The model in a file that `leukemia export` wrote.

    Args:
        path: the file.
        device: `auto` or `cpu`, where it was compared with torch.
        tta: None, or the file's own.

    Raises:
        InputError: if there is no such file, `leukemia export` of this version did not write it, or another device or
            `tta` is asked for.
    """

    def __init__(self, path: Path, device: str = "auto", tta: str | None = None) -> None:
        if device not in ("auto", "cpu"):
            raise InputError(
                f"--device {device}: an exported model runs on the processor; take cpu, or the run itself"
            )
        try:
            if path.exists() and not path.is_file():
                raise InputError(f"{path} is not a file")
            if (size := path.stat().st_size) > LARGEST:
                raise InputError(f"{path} has {size / 1e9:.1f} GB: no exported model is larger than 2.1 GB")
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        onnxruntime = needs("onnxruntime")
        try:
            self.session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no other base class in common
            raise InputError(
                f"{path} is not a model that onnxruntime can open ({quoted(error)}): export it again"
            ) from None
        self.path = path
        known = [output.name for output in self.session.get_outputs()]
        self._outputs = [MEMBERS if MEMBERS in known else "logit", *[DISTANCES] * (DISTANCES in known)]
        about = _metadata(self.session.get_modelmeta().custom_metadata_map, path)
        if tta not in (None, about["tta"]):
            raise InputError(
                f"--tta {tta}: the logits of {path} are those of tta={about['tta']}; predict with the run itself, or "
                "leave --tta out"
            )
        super().__init__(**about)

    def member_outputs(self, pixels: NDArray[np.uint8]) -> Outputs:
        try:
            found = dict(zip(self._outputs, self.session.run(self._outputs, {"pixels": pixels}), strict=True))
        except Exception as error:  # as above
            raise InputError(f"{self.path} cannot score cells ({quoted(error)}): export it again") from None
        logits = np.asarray(found[self._outputs[0]], dtype=np.float64)
        distances = np.asarray(found.get(DISTANCES, np.empty((len(pixels), 0))), dtype=np.float64)
        gated = sum(gate is not None for gate in self.gates)
        wanted = (len(pixels),) if len(self.gates) == 1 else (len(pixels), len(self.gates))
        if logits.shape != wanted or distances.shape != (len(pixels), gated):
            raise InputError(
                f"{self.path} gives {quoted(logits.shape)} logits and {quoted(distances.shape)} distances for "
                f"{len(pixels)} cells: export it again"
            )
        far = iter(distances.T)
        members = zip(logits.reshape(len(pixels), -1).T, self.gates, strict=True)
        return [(logit, None if gate is None else next(far)) for logit, gate in members]


def needs(name: str) -> Any:
    """A module of the extra `onnx`.

    Raises:
        InputError: if it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(f"exported models need {name} ({error}): pip install 'leukemia[onnx]'") from None


def encoded(cells: NDArray[np.uint64]) -> str:
    """Hashes as a text."""
    return base64.b64encode(cells.astype("<u8").tobytes()).decode("ascii")


def _gate(content: Any) -> Gate | None:
    """The gate in the metadata, without the arrays that the graph holds."""
    if content is None:
        return None
    cells = np.frombuffer(base64.b64decode(content["cells"], validate=True), dtype="<u8").astype(np.uint64)
    nothing = np.zeros((0, 0), np.float32)
    return Gate.from_json(content, {"centre": nothing.ravel(), "whitening": nothing, "cells": cells})


def _metadata(texts: dict[str, str], path: Path) -> dict[str, Any]:
    """The settings of the predictor."""
    if texts.get("format") != FORMAT:
        raise InputError(
            f"{path} says {quoted(texts.get('format', 'nothing'))} of its format, not {FORMAT!r}: "
            "export it again with this version"
        )
    try:
        plain = {key: json.loads(texts[key]) for key in ("classes", "image_size", "native_size", "policy")}
        policy = plain.pop("policy")
        data = run_data({"data": {"root": ".", "resize": texts["resize"], **plain}}, "metadata")
        return {
            "name": texts["run"],
            "classes": data.classes,
            "policy": None if policy is None else Policy.from_json(policy),
            "image_size": data.image_size,
            "resize": data.resize,
            "native_size": data.native_size,
            "tta": texts["tta"],
            "gates": [_gate(gate) for gate in json.loads(texts.get("gates", "[null]"))],
        }
    except (KeyError, TypeError, ValueError, RecursionError) as error:  # InputError and JSONDecodeError too
        raise InputError(f"{path}: its metadata are damaged ({quoted(error)}): export it again") from None
