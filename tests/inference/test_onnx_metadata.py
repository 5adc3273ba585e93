"""Any metadata of an exported model are typed or refused in a line."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leukemia.errors import InputError
from leukemia.inference.onnx_predictor import FORMAT, OnnxPredictor, _metadata

SOUND = {
    "format": FORMAT, "run": "run", "classes": '["HEM", "ALL"]', "image_size": "32", "native_size": "null",
    "policy": "null", "gates": "[null]", "resize": "crop", "tta": "none",
}  # fmt: skip
TEXTS = st.text(max_size=8) | st.sampled_from([
    "NaN", "1e999", "[1, 2]", '["unsure", "ALL"]', '["ALL", "ALL"]', '["A"]', "3", "-1", "true", "{}", "[" * 5000,
    "9" * 5000, '{"thresholds": 3}', '{"thresholds": {"low": "a"}, "calibration": {}}',
])  # fmt: skip


def test_sound_metadata_are_typed():
    assert _metadata(SOUND, Path("x.onnx"))["classes"] == ("HEM", "ALL")


@given(
    changes=st.dictionaries(st.sampled_from(sorted(SOUND)), TEXTS | st.none(), min_size=1),
)
def test_any_metadata_are_typed_or_refused(changes):
    texts = {name: text for name, text in (SOUND | changes).items() if text is not None}
    try:
        found = _metadata(texts, Path("x.onnx"))
    except InputError as error:
        said = str(error)
    else:
        assert json.loads(texts["image_size"]) == found["image_size"]
        assert len(set(found["classes"])) == 2
        return
    assert said.startswith("x.onnx")
    assert len(said) < 500


def test_a_file_larger_than_a_protobuf_is_refused_unread(tmp_path, monkeypatch):
    model = tmp_path / "model.onnx"
    model.touch()
    os.truncate(model, 2**31 + 1)
    monkeypatch.delattr(Path, "read_bytes")
    with pytest.raises(InputError, match=r"model\.onnx has 2\.1 GB"):
        OnnxPredictor(model)
