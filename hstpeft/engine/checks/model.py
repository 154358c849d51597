"""All that is looked at in a model that was just built."""

from torch import nn

from hstpeft.engine.checks.channels import check_channels
from hstpeft.engine.checks.img_norm import check_img_norm
from hstpeft.engine.distributed import unwrapped


def check_model(model: nn.Module) -> None:
    """Check a host's model, with DDP around it or not, before its first use.

    Raises:
        UserError: What reads the maps does not fit them; see `check_channels`.
    """
    model = unwrapped(model)
    check_channels(model)
    check_img_norm(model)
