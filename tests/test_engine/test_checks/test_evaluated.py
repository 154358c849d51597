"""Settings that would make a host evaluate a text or read a pickle."""

import pytest
from mmengine.config import Config

from hstpeft.apis import init_model
from hstpeft.engine.checks.evaluated import check_evaluated
from hstpeft.errors import UserError

CALL = '__import__("os").system("true")'


@pytest.mark.parametrize(
    'setting',
    [
        dict(type=CALL),
        dict(dtype=f'float32, {CALL}'),
        dict(warp_mode=f'cv2.{CALL}'),
        dict(decode_backend='pickle'),
        dict(ann_file='a.pkl'),
        dict(proposal_file='b.pickle'),
        dict(hierarchy_file='tree.np'),
        dict(type='mmcv.RFSearchHook'),
        dict(trust_remote_code=True),
        dict(diffusion_cfg='x.yaml'),
    ],
)
def test_they_are_refused_wherever_they_stand(setting):
    ((name, value),) = setting.items()
    with pytest.raises(UserError, match=rf'^model.parts.1.{name} = .* is refused: ') as info:
        check_evaluated({'model': {'parts': [{}, setting]}})
    assert repr(value) in str(info.value)
    with pytest.raises(UserError, match='is refused'):
        init_model(Config({'model': setting}))


def test_names_are_let_through():
    check_evaluated(
        {
            'nms': dict(type='soft_nms'),
            'a': dict(type='mmpretrain.torchvision/ConvertImageDtype', dtype='float16'),
            'warp_mode': 'cv2.MOTION_EUCLIDEAN',
            'data': dict(ann_file='a.json', hierarchy_file='a.json', decode_backend='numpy'),
            'model': dict(type=dict, trust_remote_code=False),
            'out_file_path': 'results.pkl',
        }
    )
