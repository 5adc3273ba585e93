"""timm's networks as stages: the promises of the dial hold for each family, and weights come and go by timm's names."""

import re

import numpy as np
import pytest
import timm as library
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import checkpoint_filter_fn

from leukemia.data.feature_cache import FeatureCache
from leukemia.data.pixels import Pixels
from leukemia.data.transforms import normalise
from leukemia.errors import InputError
from leukemia.identity import network_name
from leukemia.inference.gradcam import find_target, heat_maps
from leukemia.models.classifier import CellClassifier
from leukemia.models.freezing import freeze, prefix, stage_names, suffix
from leukemia.models.network import check_network, pixel_logits
from leukemia.models.targets import network_from_file
from leukemia.models.timm_nets import STAGE, timm
from leukemia.models.weights import published_state

VIT = "vit_small_patch14_dinov2"
SIZES = {  # small pictures: 2x2 places, or 2x2 patches
    "seresnext50_32x4d": 64,
    "regnety_002": 64,
    "efficientnet_b1": 64,
    "convnext_atto": 64,
    VIT: 28,
    "vit_small_patch14_reg4_dinov2": 28,
    "vit_tiny_patch16_224": 32,
}
FOUR = ("seresnext50_32x4d", "efficientnet_b1", "convnext_atto", VIT)


def built(name, **settings):
    torch.manual_seed(0)
    return check_network(timm(name, weights="none", image_size=SIZES[name], **settings)).eval()


def timms_own(name, size=None, **settings):
    size = size or SIZES[name]
    settings |= {"img_size": size} if "vit" in name else {}
    return library.create_model(name, **{"num_classes": 1, **settings}).eval()


def images(size, count=2, seed=0):
    values = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return values.contiguous(memory_format=torch.channels_last)


def snapshot(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize("name", SIZES)
def test_at_every_boundary_the_network_is_timms_own_to_the_bit(name):
    net = built(name)
    theirs = timms_own(name).to(memory_format=torch.channels_last)
    theirs.load_state_dict(published_state(net))  # strict: timm's names, all of them
    values = images(SIZES[name])
    with torch.no_grad():
        expected = theirs(values).flatten()
        for stage in stage_names(net):
            freeze(net, stage)
            assert torch.equal(suffix(net)(prefix(net)(values)), expected), stage
        assert prefix(net)(values).shape == (2, theirs.num_features if "b1" not in name else 1280)
    cfg = theirs.pretrained_cfg
    assert net.normalisation == (cfg["mean"], cfg["std"])


def test_stages_have_the_names_of_their_family():
    assert stage_names(built("seresnext50_32x4d")) == ["stem", *(f"layer{n}" for n in range(1, 5)), "head"]
    assert stage_names(built("efficientnet_b1")) == ["stem", *(f"stage{n}" for n in range(1, 8)), "head"]
    assert stage_names(built(VIT)) == ["stem", *(f"block{n}" for n in range(1, 13)), "head"]
    stem = {name.removeprefix("stages.") for name in built("vit_small_patch14_reg4_dinov2").state_dict()}
    assert {f"stem.model.{part}" for part in ("cls_token", "reg_token", "pos_embed")} < stem


@pytest.mark.parametrize("name", FOUR)
def test_training_leaves_frozen_stages_bit_identical_and_moves_the_others(name):
    net = built(name)
    names = stage_names(net)
    for stage in ("head", names[-2], names[1], "stem"):
        freeze(net, stage)
        for module in net.modules():
            module.train()
        before = snapshot(net)
        trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=0.1)
        logits = suffix(net)(prefix(net)(images(SIZES[name])))
        torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor([0.0, 1.0])).backward()
        optimizer.step()
        moved = {
            key.split(".")[1]
            for key, tensor in net.state_dict().items()
            if not torch.equal(before[key], tensor)
        }
        assert moved == set(names[names.index(stage) :]), stage


@pytest.mark.parametrize("name", FOUR)
@pytest.mark.parametrize("boundary", ["head", "last"])
def test_cached_features_give_the_logits_of_the_pixels(name, boundary):
    pixels = np.random.default_rng(0).integers(0, 256, (5, SIZES[name], SIZES[name], 3), dtype=np.uint8)
    model = CellClassifier(built(name), trainable_from=boundary).eval()
    cells = np.arange(5)
    cache = FeatureCache(
        model, Pixels(pixels, cells.astype(str), name), {"train": [(cells, 0)]}, "cpu", "32-true"
    )
    features = cache.load()["train"].read(cells, 0)
    if boundary == "head":
        assert features.ndim == 2
    with torch.no_grad():
        whole = model(torch.from_numpy(pixels))
        torch.testing.assert_close(model.logits({"features": features}), whole, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", SIZES)
def test_the_node_builds_the_network_again_without_weights(name):
    net = built(name, pretrained_on="cells of mine")
    assert network_name(net.node) == name
    assert net.node["weights"] == "none"
    assert net.node["pretrained_on"] == "cells of mine"
    twin = network_from_file(net.node, "a.ckpt")
    twin.load_state_dict(net.state_dict())
    assert twin.normalisation == net.normalisation
    values = images(SIZES[name])
    with torch.no_grad():
        assert torch.equal(twin.eval()(values), net(values))


@pytest.mark.parametrize("pool", ["token", "token_and_mean"])
def test_a_vision_transformer_pools_the_class_token_or_also_the_mean_of_the_patches(pool):
    for name in (VIT, "vit_small_patch14_reg4_dinov2"):
        net = built(name, pool=pool)
        assert net.node["pool"] == pool
        theirs = timms_own(name, num_classes=0).to(memory_format=torch.channels_last)
        state = published_state(net)
        theirs.load_state_dict({key: state[key] for key in theirs.state_dict()})
        freeze(net, "head")
        with torch.no_grad():
            tokens = theirs.forward_features(images(28))
            expected = [tokens[:, 0], tokens[:, theirs.num_prefix_tokens :].mean(1)]
            features = prefix(net)(images(28))
        assert torch.equal(features, torch.cat(expected[: 1 + (pool != "token")], dim=1))


def dinov2_file(size, registers=0, chunks=False):
    """Random tensors in the layout of DINOv2: one token of the class, `size` x `size` positions, and a mask token."""
    torch.manual_seed(1)
    name = "vit_small_patch14_reg4_dinov2" if registers else VIT
    state = library.create_model(name, num_classes=0, img_size=14 * size).state_dict()
    if registers:
        state["register_tokens"] = torch.randn_like(state.pop("reg_token"))
    state = {key: torch.randn_like(tensor) * 0.05 for key, tensor in state.items()}
    state["pos_embed"] = torch.randn(1, 1 + size * size, 384)
    state["mask_token"] = torch.zeros(1, 384)
    if chunks:
        state = {
            re.sub(r"^blocks\.(\d+)", lambda m: f"blocks.{int(m[1]) // 4}.{m[1]}", k): v
            for k, v in state.items()
        }
    return state


def dinobloom(state):
    """As training writes it: the teacher's backbone, and heads beside it."""
    heads = {"dino_head.mlp.0.weight": torch.zeros(2, 2), "ibot_head.mlp.0.weight": torch.zeros(2, 2)}
    return {"teacher": {**{f"backbone.{key}": tensor for key, tensor in state.items()}, **heads}}


@pytest.mark.parametrize(
    ("size", "registers", "layout"),
    [
        (37, 0, lambda state: state),
        (37, 4, lambda state: state),
        (16, 0, dinobloom),
        (16, 0, lambda state: {"model": state}),
    ],
    ids=["DINOv2", "DINOv2 with registers", "DinoBloom", "under model"],
)
def test_files_of_dinov2_and_dinobloom_give_the_features_that_timm_gives_from_their_tensors(
    tmp_path, size, registers, layout
):
    name = "vit_small_patch14_reg4_dinov2" if registers else VIT
    state = dinov2_file(size, registers)
    torch.save(layout(state), tmp_path / "teacher.pth")
    for pictures in (56, 224) if layout is dinobloom else (56,):
        net = timm(name, weights=str(tmp_path / "teacher.pth"), image_size=pictures).eval()
        theirs = timms_own(name, pictures, num_classes=0).to(memory_format=torch.channels_last)
        theirs.load_state_dict(checkpoint_filter_fn(dict(state), theirs))
        freeze(net, "head")
        with torch.no_grad():
            assert torch.equal(prefix(net)(images(pictures, 1)), theirs(images(pictures, 1)))


def test_blocks_in_chunks_are_the_same_blocks(tmp_path):
    plain, chunked = dinov2_file(16), dinov2_file(16, chunks=True)
    assert "blocks.1.5.norm1.weight" in chunked
    torch.save(plain, tmp_path / "plain.pth")
    torch.save(dinobloom(chunked), tmp_path / "chunked.pth")
    one, other = (
        timm(VIT, weights=str(tmp_path / f"{file}.pth"), image_size=28) for file in ("plain", "chunked")
    )
    for (key, tensor), twin in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert "head" in key or torch.equal(tensor, twin), key


@pytest.mark.parametrize("name", ["convnext_atto", VIT])
def test_weights_go_out_under_timms_names_and_come_back(tmp_path, name):
    net = built(name)
    file = tmp_path / "x.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in published_state(net).items()}, file)
    twin = timm(name, weights=str(file), image_size=SIZES[name])
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    settings = {"img_size": SIZES[name]} if name == VIT else {}
    theirs = library.create_model(name, num_classes=1, checkpoint_path=str(file), **settings).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(images(SIZES[name])).flatten(), net(images(SIZES[name])))


def test_a_position_table_is_interpolated_and_other_sizes_are_refused_with_the_nearest(tmp_path):
    torch.save(dinov2_file(16), tmp_path / "x.pth")
    net = timm(VIT, weights=str(tmp_path / "x.pth"), image_size=42)
    assert net.stages.stem.model.pos_embed.shape == (1, 10, 384)
    with pytest.raises(
        InputError, match=r"data.image_size=230 is not a multiple.*14 pixels.*data.image_size=224"
    ):
        timm(VIT, weights="none", image_size=230)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("swin_tiny_patch4_window7_224", "family swin_transformer, which cannot be arranged"),
        ("densenet121", ", ".join(STAGE)),
        ("vit_base_patch16_siglip_224", "pools by attention"),
        ("convnext_ato", "not a network of timm; did you mean convnext_atto"),
        ("hf-hub:timm/convnext_atto.d2_in1k", "not a network of timm"),
        ("local-dir:/tmp", "not a network of timm"),
        ("convnext_atto.nothing", "no weights nothing; use one of d2_in1k"),
    ],
)
def test_a_name_that_cannot_be_arranged_is_refused(name, words):
    with torch.device("meta"), pytest.raises(InputError, match=words):
        timm(name)


def test_pooling_is_for_vision_transformers():
    with pytest.raises(InputError, match=r"pool=token does not fit convnext_atto: use null"):
        timm("convnext_atto", pool="token")
    with pytest.raises(InputError, match=r"pool=max does not fit .*token_and_mean"):
        timm(VIT, pool="max")


def test_timms_weights_come_from_torchs_folder_and_else_the_message_names_file_folder_and_remedy(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(InputError) as refused:
        timm("convnext_atto", weights="pretrained")
    folder = tmp_path / "hub" / "checkpoints"
    for words in ("timm/convnext_atto.d2_in1k", f"into {folder} as convnext_atto.d2_in1k.safetensors",
                  "model.net.weights=PATH"):  # fmt: skip
        assert words in str(refused.value)
    folder.mkdir(parents=True)
    state = timms_own("convnext_atto", num_classes=1000).state_dict()
    save_file(state, folder / "convnext_atto.d2_in1k.safetensors")
    net = timm("convnext_atto", weights="pretrained")
    assert torch.equal(published_state(net)["stem.0.weight"], state["stem.0.weight"])
    assert net.node["pretrained_on"] == "d2_in1k"
    assert net.node["weights"] == "none"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(
        InputError, match=r"x\.pth: no such file; give a state dict or checkpoint, pretrained or none"
    ):
        timm("convnext_atto", weights=str(tmp_path / "x.pth"))


@pytest.mark.parametrize("name", FOUR)
def test_each_family_is_explained_where_it_has_places(name):
    net, size = built(name), SIZES[name]
    freeze(net, "head")
    target = find_target(net, size)
    assert (target.stage, target.places) == (stage_names(net)[-2], (2, 2))
    maps = heat_maps(net, np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8))
    assert maps.shape == (2, size, size)
    assert np.isfinite(maps).all()


def test_the_map_of_a_vision_transformer_is_that_at_the_last_block_of_timms_own_network():
    net = built(VIT)
    theirs = timms_own(VIT).eval()
    theirs.load_state_dict(published_state(net))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 3), dtype=np.uint8)
    tokens = []
    theirs.blocks[-1].norm1.register_forward_hook(lambda module, inputs, output: tokens.append(output))
    logits = theirs(normalise(torch.from_numpy(pixels), *net.normalisation))
    (slopes,) = torch.autograd.grad(logits.abs().sum(), tokens)
    weights = slopes[:, 1:].mean(1)  # the class token has no place
    expected = torch.einsum("ntc,nc->nt", tokens[0][:, 1:], weights).relu().view(2, 2, 2).detach().numpy()
    lowest, highest = (function(expected, axis=(1, 2), keepdims=True) for function in (np.min, np.max))
    expected = (expected - lowest) / np.maximum(highest - lowest, 1e-7)  # one is even
    found = heat_maps(net, pixels, enlarge=False)
    assert found.max() > 0.99
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert torch.isfinite(pixel_logits(net, torch.from_numpy(pixels))).all()
