"""SA2VP's head among mmpretrain's: its loss, what it predicts from, what it refuses."""

import pytest
import torch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.nn import functional as F

from hstpeft.engine.config import load_config
from hstpeft.errors import UserError
from hstpeft.models.heads import TwoBranchClsHead
from tests.support import tiny
from tests.support.models import MEAN_STD, backbone_config, build, images, trunk_config

LABELS = (0, 3, 4)


def samples() -> list[DataSample]:
    return [DataSample().set_gt_label(label) for label in LABELS]


def make_head(**options) -> TwoBranchClsHead:
    """Build a head with drawn values."""
    return build(dict(type='hstpeft.TwoBranchClsHead', num_classes=5, in_channels=8, **options))


def features() -> tuple[list[Tensor]]:
    """Draw the features [image, prompt] of three images."""
    return ([torch.randn(3, 8, requires_grad=True) for _ in range(2)],)


def make_classifier(head: str = 'hstpeft.TwoBranchClsHead', tuner: str = 'SA2VPTuner') -> nn.Module:
    """Build a tiny classifier as a config does."""
    return build(
        dict(
            type='ImageClassifier',
            data_preprocessor=MEAN_STD,
            backbone=backbone_config(trunk_config(), dict(type=f'hstpeft.{tuner}')),
            head=dict(type=head, num_classes=5, in_channels=32),
        )
    )


@pytest.mark.parametrize('options, share', [({}, 0.2), (dict(prompt_weight=0.5), 0.5)])
def test_the_loss_is_weighted_over_both_branches(options, share):
    head, feats = make_head(**options), features()
    losses = head.loss(feats, samples())
    image, prompt = (F.cross_entropy(head.fc(x), torch.tensor(LABELS)) for x in feats[0])
    torch.testing.assert_close(losses['image_loss'], (1 - share) * image)
    torch.testing.assert_close(losses['prompt_loss'], share * prompt)
    assert losses.keys() == {'image_loss', 'prompt_loss'}, (
        'mmengine adds up what has loss in its name'
    )


def test_one_classifier_serves_both_branches():
    head = make_head()
    assert [tuple(p.shape) for p in head.parameters()] == [(5, 8), (5,)]
    feats = features()
    sum(head.loss(feats, samples()).values()).backward()
    for x in feats[0]:
        assert x.grad.any()


def test_scores_and_accuracy_come_from_the_image_branch():
    head = make_head(cal_acc=True)
    image, prompt = features()[0]
    scores = head(([image, prompt],))
    assert scores.equal(head.fc(image))
    assert head.pre_logits(([image, prompt],)) is image
    assert scores.equal(head(([image, torch.randn(3, 8)],)))
    head.fc.weight.data, head.fc.bias.data = torch.eye(5, 8), torch.zeros(5)
    right, wrong = (torch.eye(8)[[(label + step) % 5 for label in LABELS]] for step in (0, 1))
    for feats, accuracy in (([right, wrong], 100.0), ([wrong, right], 0.0)):
        assert head.loss((feats,), samples())['accuracy_top-1'][0].item() == accuracy


def test_only_the_last_stage_is_read():
    head = make_head()
    (last,) = features()
    assert head((features()[0], last)).equal(head((last,)))


def test_a_classifier_of_mmpretrain_trains_and_predicts_with_it():
    model = make_classifier().eval()
    image = images(3, 3, 32, 32)
    feats = model.extract_feat(image)
    losses = model.loss(image, samples())
    both = [F.cross_entropy(model.head.fc(x), torch.tensor(LABELS)) for x in feats[-1]]
    torch.testing.assert_close(losses['image_loss'], 0.8 * both[0])
    torch.testing.assert_close(losses['prompt_loss'], 0.2 * both[1])
    total, logged = model.parse_losses(losses)
    torch.testing.assert_close(total, 0.8 * both[0] + 0.2 * both[1])
    assert logged['loss'].equal(total), 'the log shows what is minimised'
    predictions = model.predict(image, samples())
    scores = torch.stack([sample.pred_score for sample in predictions])
    expected = model.head.fc(feats[-1][0]).softmax(dim=1)
    torch.testing.assert_close(scores, expected)
    assert [s.pred_label.item() for s in predictions] == expected.argmax(dim=1).tolist()
    assert [s.gt_label.item() for s in predictions] == list(LABELS)


def test_a_training_step_moves_both_branches_together():
    model = make_classifier().train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    first, _ = model.parse_losses(model.loss(images(3, 3, 32, 32), samples()))
    first.backward()
    optimizer.step()
    second, _ = model.parse_losses(model.loss(images(3, 3, 32, 32), samples()))
    assert second < first


@pytest.mark.parametrize('feats', [(torch.ones(2, 8),), ([torch.ones(2, 8)],), ([], [None] * 3)])
def test_features_of_one_branch_are_refused(feats):
    head = make_head()
    message = 'needs two branches.*use it with the tuner hstpeft.SA2VPTuner, or take LinearClsHead'
    for call in (head, lambda x: head.loss(x, samples()), head.predict):
        with pytest.raises(UserError, match=message):
            call(feats)


def test_a_tuner_of_one_branch_is_refused():
    with pytest.raises(UserError, match='TwoBranchClsHead needs two branches'):
        make_classifier(tuner='FrozenTuner').loss(images(3, 3, 32, 32), samples())


@pytest.mark.parametrize('weight', [-0.1, 1.5])
def test_a_share_beyond_one_is_refused(weight):
    with pytest.raises(UserError, match=f'head.prompt_weight {weight} must be from 0 to 1'):
        make_head(prompt_weight=weight)


def test_the_head_of_the_config_starts_as_the_papers():
    config = load_config(tiny.ROOT / 'configs/sa2vp/sa2vp_vit-ti16_1xb32-12e_vtab-1k.py')
    head = MODELS.build({**config.model.head, 'num_classes': 50})
    head.init_weights()
    assert head.fc.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert isinstance(head, TwoBranchClsHead) and head.prompt_weight == 0.2
