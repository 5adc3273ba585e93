"""ResNets, ResNeXts and wide ResNets are torchvision's own, in six stages."""

import pytest
import torch
import torchvision

from leukemia.errors import InputError
from leukemia.identity import network_name
from leukemia.models.freezing import freeze, stage_names
from leukemia.models.network import check_network
from leukemia.models.resnet import DEPTHS, NAMES, resnet
from leukemia.models.weights import published_state

STAGES = ["stem", "layer1", "layer2", "layer3", "layer4", "head"]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_the_network_is_torchvisions_with_its_names_and_its_forward(name):
    torch.manual_seed(0)
    net = check_network(resnet(name=name, weights="none")).eval()
    theirs = getattr(torchvision.models, name)(num_classes=1).eval().to(memory_format=torch.channels_last)
    assert list(published_state(net)) == list(theirs.state_dict())
    theirs.load_state_dict(published_state(net))
    images = torch.randn(2, 3, 64, 64)
    for stage in (None, "stem", "layer4", "head"):
        if stage:
            freeze(net, stage)
        torch.testing.assert_close(net(images), theirs(images).flatten())


def test_there_are_five_depths_and_four_wider_ones():
    assert DEPTHS == (18, 34, 50, 101, 152)
    assert NAMES[5:] == ("resnext50_32x4d", "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2")
    for name in NAMES:
        with torch.device("meta"):
            net = resnet(name=name, weights="none")
        assert stage_names(net) == STAGES
        assert net.node == {"_target_": "leukemia.models.resnet.resnet", "name": name, "weights": "none"}
        assert network_name(net.node) == name


def test_the_node_records_what_the_weights_have_seen():
    with torch.device("meta"):
        assert resnet(18, weights="none", pretrained_on="PBC").node["pretrained_on"] == "PBC"


def test_the_depth_is_the_short_form_and_the_name_goes_before_it():
    with torch.device("meta"):
        assert resnet(34, weights="none").node["name"] == "resnet34"
        assert resnet(34, "resnet50", weights="none").node["name"] == "resnet50"


def test_an_unknown_depth_or_name_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"model.net.depth=20 is unknown: use one of 18, 34, 50, 101, 152"):
        resnet(20)
    with pytest.raises(InputError, match=r"model.net.name=resnet20 is unknown: use one of resnet18, .*wide"):
        resnet(name="resnet20")
    with pytest.raises(InputError, match=r"model.net.name=load_state_dict is unknown"):
        resnet(name="load_state_dict")
