"""`leukemia export`: a run's network or an ensemble as one file, for use without this package or without torch."""

import hashlib
import json
import logging
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leukemia.data.pixels import fit
from leukemia.data.synthetic import Traits, draw_cell
from leukemia.data.transforms import d4
from leukemia.errors import InputError
from leukemia.evaluation.ensemble import combined
from leukemia.evaluation.gate import Gate
from leukemia.evaluation.policy import TTA, Policy
from leukemia.evaluation.predictions import sigmoid
from leukemia.identity import network_name
from leukemia.inference.onnx_predictor import DISTANCES, FORMAT, MEMBERS, encoded, needs
from leukemia.inference.predictor import NO_GATE, ONNX, Predictor
from leukemia.inference.torch_predictor import TorchPredictor, mean_outputs
from leukemia.models.checkpoint import load_network
from leukemia.models.freezing import pooled
from leukemia.models.network import pixel_outputs
from leukemia.models.weights import published_state
from leukemia.runs import Ensemble, Run
from leukemia.storage.atomic import atomic_write
from leukemia.terminal import show

FORMATS = {"onnx": ONNX, "state_dict": ".safetensors"}
IMAGES, TOLERANCE = 64, 1e-4
LARGEST = 1.9e9  # bytes of weights in one protobuf


def export(model: Run | Ensemble, output: Path | None = None, form: str = "onnx") -> Path:
    """Write the best checkpoint of a run, or those of an ensemble, as one file.

    `onnx`: from pixels, uint8 (N, S, S, 3) as `leukemia.data.pixels.fit` gives them, to `logit` and calibrated
    `probability` of the positive class, float32 (N,). An ensemble adds `member_logits`, (N, members), and gates add
    `distances` of the pooled features (see `Gate.distance`), (N, members that have a gate). Normalisation, test-time
    augmentation and calibration are in the graph; the metadata hold all else that a prediction needs. It computes in
    full precision whatever the run did, and is kept only if onnxruntime and torch agree on IMAGES pictures to
    TOLERANCE.

    `state_dict`: safetensors of a run under the published names of the parameters, torchvision's for ResNets.

    Args:
        model: a run, finished or with at least one finished epoch; or an ensemble.
        output: the file; by default one with the name of the run or sweep in the current folder.
        form: a key of FORMATS.

    Returns:
        The file.

    Raises:
        InputError: if a run cannot be read, its network is not trusted or cannot be exported, the file cannot be
            written, a package is missing, onnxruntime and torch disagree, or the weights of an ensemble are asked for.
    """
    output = Path(f"{model.name}{FORMATS[form]}") if output is None else Path(output)
    if output.suffix != FORMATS[form]:
        raise InputError(f"{output}: a file of --format {form} ends in {FORMATS[form]}")
    content = _onnx(model) if form == "onnx" else _safetensors(model)
    with atomic_write(output) as file:
        file.write(content)
    show(output)
    return output


class FromPixels(nn.Module):
    """The exported graph: pixels, uint8 (N, S, S, 3), to logits and calibrated probabilities, float32 (N,) each; of
    several networks to each one's logits, (N, networks); and with gates to distances, (N, gates).

    Args:
        nets: of the seam; the logit is their mean.
        tta: `none` or `d4`.
        slope, intercept: of the calibration.
        gates: of each network, None where it has none.
    """

    def __init__(
        self,
        nets: Sequence[Any],
        tta: str,
        slope: float = 1.0,
        intercept: float = 0.0,
        gates: Sequence[Gate | None] = (),
    ) -> None:
        super().__init__()
        gates = gates or [None] * len(nets)
        self.members = nn.ModuleList(map(_Normalised, nets, gates))
        self.transforms, self.has_gate = TTA[tta], any(gate is not None for gate in gates)
        self.slope, self.intercept = slope, intercept

    @property
    def outputs(self) -> list[str]:
        """The names of the outputs."""
        several = len(self.members) > 1
        return ["logit", "probability", *[MEMBERS] * several, *[DISTANCES] * self.has_gate]

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        seen = torch.cat([d4(pixels, n) for n in range(self.transforms)]) if self.transforms > 1 else pixels
        of_members = [net(seen.float()) for net in self.members]
        logits = [logit.reshape(self.transforms, -1).mean(dim=0) for logit, _ in of_members]
        logit = torch.stack(logits, dim=1).mean(dim=1)
        found = [logit, torch.sigmoid(self.slope * logit + self.intercept)]
        if len(self.members) > 1:
            found.append(torch.stack(logits, dim=1))
        if self.has_gate:  # of each cell as it is, which stands first
            distances = [distance[: pixels.shape[0]] for _, distance in of_members if distance is not None]
            found.append(torch.stack(distances, dim=1))
        return tuple(found)


class _Normalised(nn.Module):
    """A network from pixels, float (N, S, S, 3), and its gate."""

    def __init__(self, net: Any, gate: Gate | None) -> None:
        super().__init__()
        self.body, self.head, self.has_gate = net.stages[:-1], net.stages[-1], gate is not None
        self.offset: Tensor
        self.scale: Tensor
        self.centre: Tensor
        self.whitening: Tensor
        for name, values in zip(("offset", "scale"), net.normalisation, strict=True):
            self.register_buffer(name, 255 * torch.tensor(values, dtype=torch.float32))
        if gate is not None:
            self.register_buffer("centre", torch.from_numpy(gate.centre))
            self.register_buffer("whitening", torch.from_numpy(gate.whitening))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (N, 1), and with a gate the distances of pooled features, (N,)."""
        # The stages as one sequence: `prefix` and `suffix` switch gradients and autocast, and the graph has neither.
        values = self.body(((pixels - self.offset) / self.scale).permute(0, 3, 1, 2))
        logits: Tensor = self.head(values)
        if not self.has_gate:
            return logits, None
        return logits, torch.linalg.vector_norm((pooled(values) - self.centre) @ self.whitening, dim=1)


def policy_in_full_precision(policy: Policy | None, precision: str) -> Policy | None:
    """A run's policy as it holds for logits in full precision.

    Thresholds that were certified on logits of a lower precision keep their numbers and lose their guarantee: logits
    near a threshold may move across it.
    """
    if policy is None or precision == "32-true" or not policy.certified:
        return policy
    why_not = (
        f"the thresholds were certified on logits in {precision}, and the exported model computes in 32-true: predict "
        "with the run itself, or train it with trainer.precision=32-true"
    )
    return replace(policy, certified=False, why_not=why_not)


def _onnx(model: Run | Ensemble) -> bytes:
    onnx, onnxruntime = needs("onnx"), needs("onnxruntime")
    needs("onnxscript")  # torch's exporter imports it
    predictor = TorchPredictor(model, "cpu")
    precision = " and ".join(sorted(set(predictor.precisions)))
    policy = policy_in_full_precision(predictor.policy, precision)
    slope, intercept, source = 1.0, 0.0, "identity"
    if policy is not None and policy.slope is not None and policy.intercept is not None:
        slope, intercept, source = policy.slope, policy.intercept, "triage.json"
    pixels, of_run = _pictures(model.members[0], predictor)
    gates = [gate for gate in predictor.gates if gate is not None]
    module = FromPixels(predictor.nets, predictor.tta, slope, intercept, predictor.gates).eval()
    size = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    if size > LARGEST:
        raise InputError(
            f"the {len(predictor.nets)} networks have {size / 1e9:.1f} GB, and one ONNX file holds 2: export fewer"
        )
    proto = _graph(module, pixels)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found = dict(zip(module.outputs, session.run(module.outputs, {"pixels": pixels}), strict=True))
    with torch.inference_mode():
        of_members = [mean_outputs(partial(pixel_outputs, net), torch.from_numpy(pixels), predictor.tta)
                      for net in predictor.nets]  # fmt: skip
    expected = combined([logit for logit, _ in of_members])["logit"]
    wanted = {
        "logit": expected,
        "probability": sigmoid(slope * expected + intercept),
        MEMBERS: np.stack([logit for logit, _ in of_members], axis=1),
    }
    if gates:  # in units of the training cells' own distances
        members = zip(predictor.gates, of_members, strict=True)
        pairs = [(gate, features) for gate, (_, features) in members if gate]
        wanted[DISTANCES] = np.stack([gate.network_check(gate.distance(of)) for gate, of in pairs], axis=1)
        given = zip(gates, found[DISTANCES].T, strict=True)
        found[DISTANCES] = np.stack([gate.network_check(far) for gate, far in given], axis=1)
    apart = _largest_difference(list(found.values()), [wanted[name] for name in found])
    checked = {"images": IMAGES, "of_the_run": of_run, "largest_difference": apart}
    said = [f"onnxruntime agrees with torch on {IMAGES} pictures ({of_run} of them the run's) to {apart:.1e}"]
    if not gates:
        said.append(f"WARNING: {model.name} {NO_GATE}")
    if source == "identity":
        said.append("The probability is the plain sigmoid: no triage.json calibrates it (`leukemia triage`)")
    if precision != "32-true":
        in_run = predictor.logits(pixels)
        moved = int((predictor.decide(in_run) != predictor.decide(expected)).sum())
        off = float(np.abs(in_run - expected).max())
        checked |= {"largest_difference_from_run": off, "decisions_moved": moved}
        said.append(
            f"NOTE: the run computed in {precision}, this file computes in 32-true: logits differ by up to "
            f"{off:.2g}, and {moved} of {IMAGES} decisions with them"
        )
    if policy is not None and not policy.certified:
        said.append(f"NOTE: the policy is not certified: {policy.why_not}")
    metadata = {
        "format": FORMAT,
        "run": model.name,
        "run_hash": run_hash(model),
        "members": [run.name for run in model.members],
        "classes": list(predictor.classes),
        "image_size": predictor.image_size,
        "resize": predictor.resize,
        "native_size": predictor.native_size,
        "tta": predictor.tta,
        "calibration": {"slope": slope, "intercept": intercept, "source": source},
        "thresholds": None if policy is None else {"low": policy.low, "high": policy.high},
        "policy": None if policy is None else policy.to_json(),
        "gates": [
            None if gate is None else gate.to_json() | {"cells": encoded(gate.cells)}
            for gate in predictor.gates
        ],
        "precision": "32-true",
        "run_precision": precision,
        "checked": checked,
        "versions": _versions("leukemia", "torch", "torchvision", "onnx", "onnxscript", "onnxruntime"),
    }
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    onnx.helper.set_model_props(proto, texts)
    show("\n".join(said))
    return bytes(proto.SerializeToString())


def _largest_difference(given: Sequence[NDArray[Any]], expected: Sequence[NDArray[np.float64]]) -> float:
    apart = max(float(np.abs(ours - theirs).max()) for ours, theirs in zip(given, expected, strict=True))
    if not apart <= TOLERANCE:
        raise InputError(
            f"onnxruntime and torch disagree by {apart:.2g} on {IMAGES} pictures, more than {TOLERANCE}: nothing is "
            "kept; try another version of onnxruntime or onnx"
        )
    return apart


def run_hash(model: Run | Ensemble) -> str:
    """Identifies the exported networks: SHA-256 of config.yaml and of the best checkpoint of each."""
    digest = hashlib.sha256()
    for run in model.members:
        digest.update((run.folder / "config.yaml").read_bytes())
        with open(run.best_checkpoint, "rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def _graph(module: FromPixels, pixels: NDArray[np.uint8]) -> Any:
    """The ONNX model of a module, for any number of pictures."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about torch's internals
            program = torch.onnx.export(
                module,
                (torch.from_numpy(pixels[:2].copy()),),
                input_names=["pixels"],
                output_names=module.outputs,
                dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # of torch's tracer, or of a user's own network
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"torch cannot export this network to ONNX ({reason}): use --format state_dict"
        ) from error
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    assert program is not None
    proto = program.model_proto
    for node in proto.graph.node:  # the exporter's notes name files of this machine
        del node.metadata_props[:]
    return proto


def _pictures(run: Run, predictor: Predictor) -> tuple[NDArray[np.uint8], int]:
    """IMAGES pictures to compare on, (IMAGES, S, S, 3): the run's own where they can be read, filled up with synthetic
    cells; and how many are its own."""
    folder = run.data.folder
    table = run.predictions if (run.folder / "predictions.csv").is_file() else None
    found = []
    for path in [] if table is None else table["path"].sample(min(IMAGES, len(table)), random_state=0):
        with suppress(InputError):
            found.append(predictor.pixels(folder / path))
    rng, of_run = np.random.default_rng(0), len(found)
    for number in range(IMAGES - of_run):
        traits = Traits(*rng.standard_normal(6).tolist())
        cell = draw_cell(traits, np.random.default_rng(number))
        found.append(fit(cell, predictor.image_size, predictor.resize, predictor.native_size))
    return np.stack(found), of_run


def _safetensors(run: Run | Ensemble) -> bytes:
    if isinstance(run, Ensemble):
        raise InputError(
            f"the published names are those of one network, and {run.folder} has {len(run.members)}: export them one "
            f"by one, as {run.members[0].folder}"
        )
    save = needs("safetensors.torch").save
    loaded = load_network(run.best_checkpoint)
    about = {
        "format": "pt",  # other readers look for it
        "architecture": network_name(loaded.node),
        "classes": json.dumps(list(loaded.classes)),
        "run": run.name,
        "run_hash": run_hash(run),
        "versions": json.dumps(_versions("leukemia", "torch", "torchvision")),
    }
    state = {name: tensor.contiguous() for name, tensor in published_state(loaded.net).items()}
    return bytes(save(state, about))


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
