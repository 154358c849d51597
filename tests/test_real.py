"""Real images and real weights, where they are at hand (HSTPEFT_REAL_DATA, or ../shared/data)."""

import os
from pathlib import Path

import pytest
import timm
import torch
from mmengine.dataset import pseudo_collate
from safetensors.torch import load_file

from hstpeft.datasets import VTAB1k
from hstpeft.models import TunedBackbone
from tests.support.paths import ROOT

DATA = Path(os.environ.get('HSTPEFT_REAL_DATA', ROOT.parent / 'shared/data'))
WEIGHTS = DATA.parent / 'weights/vit_tiny_patch16_224.safetensors'
ARCH = 'vit_tiny_patch16_224'
PIPELINE = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='Resize', scale=(224, 224), backend='pillow', interpolation='bicubic'),
    dict(type='mmpretrain.PackInputs'),
]
pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(not WEIGHTS.is_file(), reason=f'no real data in {DATA}'),
]


def read(ann_file, number):
    """Take every k-th image of sign_digits: normalised images and labels."""
    dataset = VTAB1k(
        data_root=str(DATA / 'vtab-1k/sign_digits'),
        ann_file=ann_file,
        num_classes=10,
        pipeline=PIPELINE,
        test_mode=True,
    )
    samples = [dataset[i] for i in range(0, len(dataset), len(dataset) // number)][:number]
    batch = pseudo_collate(samples)
    images = torch.stack(batch['inputs']).flip(1).float() / 127.5 - 1  # BGR bytes -> RGB in -1..1
    return images, torch.tensor([int(sample.gt_label) for sample in batch['data_samples']])


@torch.inference_mode()
def test_the_frozen_trunk_sees_what_timm_sees_and_tells_hand_signs_apart():
    trunk = dict(type='hstpeft.ViTTrunk', arch=ARCH, weights=str(WEIGHTS))
    backbone = TunedBackbone(trunk=trunk, tuner=dict(type='hstpeft.FrozenTuner')).eval()
    vit = timm.create_model(ARCH)
    vit.load_state_dict(load_file(WEIGHTS))
    train, labels = read('train800.txt', 100)
    test, truth = read('test.txt', 50)
    features = backbone(train)[0]
    expected = vit.eval().forward_features(train[:16])[:, 0]
    # The values go up to 21; the frozen Linears sum in another order than timm's.
    torch.testing.assert_close(features[:16], expected, rtol=1e-4, atol=1e-4)
    means = torch.stack([features[labels == label].mean(dim=0) for label in range(10)])
    nearest = torch.cdist(backbone(test)[0], means).argmin(dim=1)
    assert (nearest == truth).float().mean() > 0.4  # chance is 0.1; 0.56 when written
