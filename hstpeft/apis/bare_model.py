"""A trunk without a delta, as a model."""

from mmengine.config import Config
from mmengine.model import BaseModel
from torch import Tensor, nn

from hstpeft.engine.safe_io import safe_io
from hstpeft.errors import UserError
from hstpeft.models.backbones import TunedBackbone


def build_bare(model: BaseModel) -> 'BareModel':
    """Build the model of a trunk alone, from the config of a model with a tuned backbone."""
    trunk = model.cfg.model.backbone.trunk
    with safe_io():
        backbone = TunedBackbone(trunk, dict(type='hstpeft.FrozenTuner'))
    return BareModel(backbone, model.data_preprocessor, model.cfg).eval()


class BareModel(BaseModel):
    """A pre-trained trunk as a model without tuner, neck and head.

    Args:
        backbone: With a frozen tuner.
        data_preprocessor: Of a model over the same trunk.
        cfg: Where the trunk was configured.

    Attributes:
        cfg: As in every model of `init_model`.
        dataset_meta: Empty.
    """

    def __init__(self, backbone: TunedBackbone, data_preprocessor: nn.Module, cfg: Config) -> None:
        super().__init__(data_preprocessor)
        self.backbone, self.cfg, self.dataset_meta = backbone, cfg, {}

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the trunk's last output for images (B, 3, H, W), in its usual form.

        The class token (B, C), or the average over the patches in a trunk that has none.
        """
        return self.backbone(inputs)

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'
    ) -> tuple[Tensor, ...]:
        """Return `extract_feat`; there is no other mode.

        Raises:
            UserError: ``mode`` is ``predict`` or ``loss``.
        """
        if mode != 'tensor':
            raise UserError(
                f'mode {mode!r} needs a head, and without a delta there is none: call set_delta, or '
                'extract_feat for the features of the trunk'
            )
        return self.extract_feat(inputs)
