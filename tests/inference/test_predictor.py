"""A predictor turns logits into decisions, by its policy or by probability 0.5, and needs no torch."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from leukemia.errors import InputError
from leukemia.evaluation.policy import Policy
from leukemia.inference.predictor import Predictor, open_predictor

CLASSES = ("HEM", "ALL")


class Brightness(Predictor):
    """The logit is the mean of a picture, less 128."""

    def member_outputs(self, pixels):
        return [(pixels.mean(axis=(1, 2, 3)) - 128.0, None)]


def predictor(policy=None, tta="none") -> Brightness:
    return Brightness("bright", CLASSES, policy, 32, "squash", None, tta)


def policy(certified=True, **fitted_on) -> Policy:
    return Policy(
        -50.0,
        50.0,
        None,
        None,
        0.1,
        0.2,
        0.95,
        "subject",
        certified,
        None if certified else "few",
        0.5,
        fitted_on,
    )


def test_without_a_policy_a_class_is_decided_at_probability_one_half():
    assert predictor().decide(np.array([-1.0, 0.0, 1.0])).tolist() == ["HEM", "ALL", "ALL"]
    assert predictor().decided_by == "probability 0.5"


def test_a_policy_sends_the_middle_to_review_and_says_whether_it_is_certified():
    one = predictor(policy())
    assert one.decide(np.array([-50.0, 0.0, 50.0])).tolist() == ["HEM", "review", "ALL"]
    assert one.decided_by == "triage.json"
    assert predictor(policy(certified=False)).decided_by == "triage.json (not certified)"


def test_a_policy_of_other_transforms_is_refused():
    with pytest.raises(InputError, match="with tta=d4 and not with tta=none"):
        predictor(policy(views=8))
    assert predictor(policy(views=8), tta="d4").policy is not None
    with pytest.raises(InputError, match="use one of none, d4"):
        predictor(tta="views")


def test_a_picture_file_becomes_the_pixels_that_the_network_takes(tmp_path):
    Image.new("RGB", (64, 64), (200, 200, 200)).save(tmp_path / "cell.png")
    one = predictor()
    pixels = one.pixels(tmp_path / "cell.png")
    assert pixels.shape == (32, 32, 3)
    assert one.logits(pixels[None]).tolist() == [72.0]


def test_something_else_than_a_run_or_a_model_is_refused(tmp_path):
    for target in (tmp_path / "nowhere", tmp_path, tmp_path / "nowhere.onnx"):
        with pytest.raises(InputError):
            open_predictor(target)


def test_deciding_imports_no_torch():
    program = "import sys; import leukemia.inference.predictor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
