"""An exported model as a predictor: onnxruntime and numpy, no torch."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leukemia.errors import InputError
from leukemia.evaluation.policy import Policy
from leukemia.inference.predictor import Predictor

FORMAT = "leukemia.onnx.2"


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
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        onnxruntime = needs("onnxruntime")
        try:
            self.session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no other base class in common
            reason = str(error).splitlines()[0]
            raise InputError(
                f"{path} is not a model that onnxruntime can open ({reason}): export it again"
            ) from None
        about = _metadata(self.session.get_modelmeta().custom_metadata_map, path)
        if tta not in (None, about["tta"]):
            raise InputError(
                f"--tta {tta}: the logits of {path} are those of tta={about['tta']}; predict with the run itself, or "
                "leave --tta out"
            )
        super().__init__(**about)

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        return np.asarray(self.session.run(["logit"], {"pixels": pixels})[0], dtype=np.float64)


def needs(name: str) -> Any:
    """A module of the extra `onnx`.

    Raises:
        InputError: if it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(f"exported models need {name} ({error}): pip install 'leukemia[onnx]'") from None


def _metadata(texts: dict[str, str], path: Path) -> dict[str, Any]:
    """The settings of the predictor."""
    if texts.get("format") != FORMAT:
        raise InputError(
            f"{path} says {texts.get('format', 'nothing')!r} of its format, not {FORMAT!r}: export it again with this "
            "version"
        )
    try:
        plain = {key: json.loads(texts[key]) for key in ("classes", "image_size", "native_size", "policy")}
        negative, positive = plain.pop("classes")
        policy = plain.pop("policy")
        return {
            "name": texts["run"],
            "classes": (negative, positive),
            "policy": None if policy is None else Policy.from_json(policy),
            "resize": texts["resize"],
            "tta": texts["tta"],
            **plain,
        }
    except (KeyError, ValueError) as error:  # InputError and JSONDecodeError among them
        raise InputError(f"{path}: its metadata are damaged ({error}): export it again") from None
