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

FORMAT = "leukemia.onnx.1"
SUFFIX = ".onnx"


def onnx_predictor(path: Path, device: str = "auto", views: int | None = None) -> Predictor:
    """The predictor in a file that `leukemia export` wrote; its logits are those of the file's own views.

    Args:
        path: the file.
        device: `auto` or `cpu`, where it was compared with torch.
        views: None, or the file's own number.

    Raises:
        InputError: if there is no such file, it is none of ours, or other views or another device are asked for.
    """
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
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes have no common base but this
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path} is no model that onnxruntime can open ({reason}): export it again"
        ) from None
    about = _metadata(session.get_modelmeta().custom_metadata_map, path)
    if views not in (None, about["views"]):
        raise InputError(
            f"--views {views}: {path} gives mean logits over {about['views']} views; predict with the run itself, or "
            "leave --views out"
        )

    def logits(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        return np.asarray(session.run(["logit"], {"pixels": pixels})[0], dtype=np.float64)

    negative, positive = about["classes"]
    return Predictor(
        name=str(about["run"]),
        classes=(negative, positive),
        policy=None if about["policy"] is None else Policy.from_json(about["policy"]),
        image_size=about["image_size"],
        resize=about["resize"],
        native_size=about["native_size"],
        views=about["views"],
        logits=logits,
    )


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
    if texts.get("format") != FORMAT:
        raise InputError(
            f"{path} says {texts.get('format', 'nothing')!r} of its format, not {FORMAT!r}: give a file that "
            "`leukemia export` of this version wrote"
        )
    try:
        read = ("classes", "image_size", "native_size", "views", "policy")
        return {
            "run": texts["run"],
            "resize": texts["resize"],
            **{key: json.loads(texts[key]) for key in read},
        }
    except (KeyError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: its metadata are damaged ({error}): export it again") from None
