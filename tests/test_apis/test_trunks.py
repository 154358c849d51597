"""hstpeft.apis.list_trunks: which of timm's models can be tuned, and by what."""

import pytest

from hstpeft import models
from hstpeft.apis import list_trunks
from hstpeft.apis.trunks import defined_tuners
from hstpeft.errors import UserError
from hstpeft.models.tuners import Tuner
from hstpeft.registry import MODELS


def test_trunks_are_found_by_part_and_pattern():
    rows = list_trunks()
    assert rows == sorted(rows, key=lambda row: row.arch) and len(rows) > 300
    assert list_trunks('reg4_dinov2') == list_trunks('*reg4_dinov2*')
    assert [row.arch for row in list_trunks('swin_s3_t*')] == ['swin_s3_tiny_224']
    assert list_trunks('no such model') == []


def test_a_row_says_what_can_be_done():
    (row,) = list_trunks('vit_base_patch14_reg4_dinov2')
    assert row[:5] == ('vit_base_patch14_reg4_dinov2', 'hstpeft.ViTTrunk', 'ViT', True, True)
    assert {'hstpeft.HSTTuner', 'hstpeft.LoRATuner'} <= set(row.tuners) and row.reason == ''
    (row,) = list_trunks('swin_tiny_patch4_window7_224')
    assert row[1:5] == ('hstpeft.SwinTrunk', 'Swin', True, False)
    assert 'hstpeft.HSTTuner' not in row.tuners and 'hstpeft.VPTTuner' in row.tuners
    row = list_trunks('vit_base_patch16_dinov3')[0]
    assert row[1:5] == ('hstpeft.EvaTrunk', 'Eva', True, True)


def test_supported_and_refused_are_told_apart():
    runs, refused = list_trunks(supported=True), list_trunks(supported=False)
    assert sorted([*runs, *refused]) == sorted(list_trunks())
    assert all(row.trunk and row.tuners and not row.reason for row in runs)
    assert all(not (row.trunk or row.tuners or row.dense) and row.reason for row in refused)


def test_a_refusal_is_the_one_that_the_trunk_raises():
    (row,) = list_trunks('beit_base_patch16_224')
    with pytest.raises(UserError) as error:
        models.ViTTrunk('beit_base_patch16_224')
    reason, remedy = row.reason.split(': ', 1)
    assert str(error.value).endswith(f'is not supported ({reason}): {remedy}')


def test_the_tuners_are_those_whose_needs_are_met(monkeypatch):
    class StagesTuner(Tuner):
        needs = ('stages',)

    monkeypatch.setitem(MODELS.module_dict, 'StagesTuner', StagesTuner)
    assert 'hstpeft.StagesTuner' in defined_tuners(models.SwinTrunk)
    assert 'hstpeft.StagesTuner' not in defined_tuners(models.ViTTrunk)
    assert 'hstpeft.StagesTuner' in list_trunks('swin_tiny_patch4_window7_224')[0].tuners
    assert 'hstpeft.ViTTrunk' not in defined_tuners(models.ViTTrunk)


def test_a_name_that_lacks_what_its_class_has_does_without_the_tuners_that_need_it():
    plain, gated = (
        list_trunks(f'vit_{size}_patch16_dinov3')[0].tuners for size in ('base', 'small_plus')
    )
    assert set(plain) - set(gated) == {'hstpeft.FacTTuner'}
