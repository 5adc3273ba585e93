"""timm's networks as named stages: ResNets and their kin, RegNet, EfficientNet, ConvNeXt and Vision Transformers."""

import re
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leukemia.errors import InputError
from leukemia.models.network import StagedNetwork, TokenGrid
from leukemia.models.targets import did_you_mean
from leukemia.models.weights import fill_weights, read_state_dict
from leukemia.storage.torch_files import reason_of

STAGE = {  # modules of timm whose networks can be arranged, and how their stages are called
    "resnet": "layer",
    "regnet": "stage",
    "efficientnet": "stage",
    "convnext": "stage",
    "vision_transformer": "block",
}
POOLS = ("token", "token_and_mean")


def timm(
    name: str,
    weights: str = "pretrained",
    pool: str | None = None,
    image_size: int | None = None,
    pretrained_on: str | None = None,
) -> StagedNetwork:
    """A network of timm with one logit, in the stages `stem`, `layer1` (`stage1`, `block1`) and so on, and `head`.

    timm's own description of a family (`group_matcher`) names the stages. The last one ends in the pooled features
    (N, C), `head` is the linear layer. A Vision Transformer has a stage for each block; its stem holds the class token,
    the registers and the position table. Mean and standard deviation are those of timm's weights.

    Args:
        name: as timm has it, with or without a tag: `convnext_atto`, `vit_small_patch14_dinov2.lvd142m`.
        weights: `pretrained` (timm's own), `none` (random), or the path of a state dict or checkpoint under timm's
            names, or of DINOv2 or DinoBloom in their own layout.
        pool: of a Vision Transformer: `token` (the class token), `token_and_mean` (and beside it the mean of the patch
            tokens, (N, 2C)), or None for timm's own.
        image_size: of the pictures; a position table is interpolated to it. None for timm's own.
        pretrained_on: the data that the weights have seen, in words; recorded with the run.

    Raises:
        InputError: for a name that timm does not know or that cannot be arranged, a size that the patches do not
            divide, or weights that cannot be loaded.
    """
    model = _create(name, pool, image_size)
    is_vit = hasattr(model, "patch_embed")
    grid = _checked_grid(model, name, image_size) if is_vit else None
    source = weights
    state = None
    if weights == "pretrained":
        state, source = _published(model.pretrained_cfg)
        pretrained_on = pretrained_on or model.pretrained_cfg["tag"] or None
    elif weights != "none":
        state = read_state_dict(Path(str(weights)).expanduser(), "pretrained")
    if state is not None and is_vit:
        state = timm_state(state, model)
    stages, published = _arrange(model, pool)
    node = {"name": name, "weights": "none", "pool": pool, "image_size": image_size}
    node["pretrained_on"] = pretrained_on
    cfg = model.pretrained_cfg
    net = StagedNetwork(
        stages,
        normalisation=(tuple(cfg["mean"]), tuple(cfg["std"])),
        node={"_target_": f"{__name__}.timm", **{key: value for key, value in node.items() if value}},
        published=published,
    )
    net.token_grid = grid
    net.to(memory_format=torch.channels_last)
    if state is not None:
        fill_weights(net, state, source)
    return net


def timm_state(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a Vision Transformer under timm's names, its position table interpolated to the model's size.

    DINOv2 and DinoBloom publish `mask_token`, `register_tokens`, `mlp.w12`; their training files hold `backbone.`
    before each name, heads beside it, and blocks in chunks (`blocks.1.3.` for block 3).
    """
    backbone = {key[9:]: tensor for key, tensor in state.items() if key.startswith("backbone.")}
    state = {re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", k): v for k, v in (backbone or state).items()}
    convert = sys.modules["timm.models.vision_transformer"].checkpoint_filter_fn
    converted: dict[str, Tensor] = convert(state, model)
    return converted


class Tokens(nn.Module):
    """The stem of a Vision Transformer: pictures (N, 3, S, S) to tokens (N, T, C), their places added."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model  # without blocks and norms

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.model.forward_features(images)
        return tokens


class Pool(nn.Module):
    """Tokens (N, T, C) to features: the class token, the mean of the patch tokens, or both, (N, C) or (N, 2C)."""

    def __init__(self, kind: str, before_patches: int) -> None:
        super().__init__()
        self.kind, self.before_patches = kind, before_patches

    def forward(self, tokens: Tensor) -> Tensor:
        if self.kind == "token":
            return tokens[:, 0]
        mean = tokens[:, self.before_patches :].mean(dim=1)
        return mean if self.kind == "avg" else torch.cat((tokens[:, 0], mean), dim=1)


def _create(name: str, pool: str | None, image_size: int | None) -> Any:
    """timm's model with one logit and random weights; only names that timm's own code registers are built."""
    try:
        import timm as library
        from timm.models import list_models, list_pretrained, model_entrypoint
    except ModuleNotFoundError as error:
        raise InputError(
            f"model/net=timm needs the package {error.name}: pip install 'leukemia[timm]'"
        ) from None
    architecture, _, tag = str(name).partition(".")
    known = list_models()
    if architecture not in known:  # also hf-hub:... and local-dir:..., which would load a stranger's model
        raise InputError(f"model.net.name={name} is not a network of timm{did_you_mean(architecture, known)}")
    family = model_entrypoint(architecture).__module__.removeprefix("timm.models.")
    if family not in STAGE:
        raise InputError(
            f"model.net.name={name} is of timm's family {family}, which cannot be arranged as stages: use one of "
            f"{', '.join(STAGE)}, as seresnext50_32x4d, regnety_002, efficientnet_b1, convnext_atto or "
            "vit_small_patch14_dinov2"
        )
    tags = [each.partition(".")[2] for each in list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise InputError(f"model.net.name={name}: timm has no weights {tag}; use one of {', '.join(tags)}")
    if pool is not None and (pool not in POOLS or STAGE[family] != "block"):
        raise InputError(
            f"model.net.pool={pool} does not fit {name}: use null, or {' or '.join(POOLS)} for a Vision Transformer"
        )
    settings: dict[str, Any] = {}
    if STAGE[family] == "block":
        settings = {"img_size": image_size} if image_size else {}
        settings |= {"global_pool": "token"} if pool else {}
    model: Any = library.create_model(name, num_classes=1, **settings)
    if STAGE[family] == "block" and (
        getattr(model, "attn_pool", None) is not None
        or model.global_pool not in ("token", "avg")
        or (pool and model.cls_token is None)
    ):
        raise InputError(
            f"model.net.name={name} has no class token to pool, or pools by attention: use a network of the DINO or "
            "DINOv2 layout, as vit_small_patch14_dinov2"
        )
    return model


def _checked_grid(model: Any, name: str, image_size: int | None) -> TokenGrid:
    patch, size = int(model.patch_embed.patch_size[0]), image_size or model.patch_embed.img_size[0]
    if size % patch:
        nearest = max(1, round(size / patch)) * patch
        raise InputError(
            f"data.image_size={size} is not a multiple of the patches of {name} ({patch} pixels): "
            f"use data.image_size={nearest}"
        )
    last = f"block{len(model.blocks)}"
    return TokenGrid(last, "block.norm1", int(model.num_prefix_tokens), size // patch)


def _arrange(model: Any, pool: str | None) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """The stages of a model of timm, and how the names of parameters begin here and there.

    Children come in the order of the data. Blocks become stages, the children before them the stem; those behind them
    end the last stage, so that it hands on pooled features.
    """
    named = STAGE[type(model).__module__.removeprefix("timm.models.")]
    matcher = model.group_matcher(coarse=True)["blocks"]
    pattern = matcher if isinstance(matcher, str) else matcher[0][0]
    blocks = {path: block for path, block in model.named_modules() if re.fullmatch(pattern, path)}
    classifier = model.pretrained_cfg["classifier"]
    head = model.get_submodule(classifier)
    model.set_submodule(classifier, nn.Identity())
    children = dict(model.named_children())
    inner = {path.partition(".")[0] for path in blocks}
    places = [place for place, child in enumerate(children) if child in inner]
    before, after = list(children)[: places[0]], list(children)[places[-1] + 1 :]
    tail: dict[str, nn.Module] = {child: children[child] for child in after}
    stem: nn.Module = nn.Sequential(OrderedDict((child, children[child]) for child in before))
    published = {f"stem.{child}.": f"{child}." for child in before}
    if named == "block":
        kind = pool or model.global_pool
        if kind == "token_and_mean":
            head = nn.Linear(2 * model.num_features, 1)
        norm = tail.pop("norm")
        prefix = 0 if model.pool_include_prefix else model.num_prefix_tokens
        tail = {"norm": norm, "pool": Pool(kind, prefix), **tail}
        model.blocks = nn.Sequential()
        for child in after:
            setattr(model, child, nn.Identity())
        stem, published = Tokens(model), {"stem.model.": ""}
    stages: dict[str, nn.Module] = {"stem": stem}
    for number, (path, block) in enumerate(blocks.items(), start=1):
        stages[f"{named}{number}"] = block
        published[f"{named}{number}."] = f"{path}."
    last, path = f"{named}{len(blocks)}", list(blocks)[-1]
    stages[last] = nn.Sequential(OrderedDict(block=stages[last], **tail))
    del published[f"{last}."]
    published |= {f"{last}.{child}.": f"{child}." for child in after} | {f"{last}.block.": f"{path}."}
    return {**stages, "head": head}, {**published, "head.": f"{classifier}."}


def _published(cfg: dict[str, Any]) -> tuple[dict[str, Tensor], str]:
    """The tensors that timm publishes for a network, from torch's folder or the Hugging Face hub, and their name."""
    repository, file = cfg.get("hf_hub_id"), cfg.get("hf_hub_filename") or "model.safetensors"
    name = ".".join(part for part in (cfg["architecture"], cfg.get("tag")) if part)
    if not repository:
        raise InputError(
            f"model.net.weights=pretrained: timm publishes no weights of {name}; use none or PATH"
        )
    own = Path(torch.hub.get_dir()) / "checkpoints" / f"{name}{Path(file).suffix}"
    path = own
    if not own.is_file():
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(repository, file))
        except Exception as error:  # of the network, in one of several libraries
            raise InputError(
                f"model.net.weights=pretrained: {file} of {repository} could not be loaded ({reason_of(error)}). "
                f"Put {file} (from https://huggingface.co/{repository}) into {own.parent} as {own.name}, or use "
                "model.net.weights=PATH or model.net.weights=none"
            ) from None
    return read_state_dict(path, "pretrained"), own.name
