"""Training chosen parts of the trunk itself: BitFit, APLA, the last blocks, any parameters."""

from collections.abc import Sequence

from torch import nn

from hstpeft.errors import UserError, check_least, check_names, nearest
from hstpeft.models.trunks import Trunk
from hstpeft.models.trunks.layers import BEHIND_BLOCKS
from hstpeft.models.trunks.parameters import norm_parameters, own_parameters
from hstpeft.models.tuners.base import Tuner, check_float32
from hstpeft.models.tuners.frozen import FrozenTuner
from hstpeft.registry import MODELS

PARTS = ('biases', 'norms', 'cls_token', 'pos_embed', 'attention_proj')


@MODELS.register_module()
class SelectiveTuner(Tuner):
    """Trains parts of the trunk and adds nothing, so that a trained trunk is the merged model.

    What the options name is trained together. ``biases`` alone is BitFit
    (https://arxiv.org/abs/2106.10199): 102,912 values of a ViT-B/16. ``attention_proj`` alone is
    APLA (https://arxiv.org/abs/2503.11335): C (C + 1) values of each block, 7,087,104 of a ViT-B/16.
    A block of a ViT of width C has 12 C^2 + 13 C, so ``last_blocks=2`` is 14,177,280 of a ViT-B/16
    with the final norm.

    Args:
        parts: ``biases`` of Linears, norms and convolutions; ``norms`` with weight and bias; the
            ``cls_token``; ``pos_embed``, the position embeddings, or a Swin's tables of relative
            positions; ``attention_proj``, the output projection of each attention. By default the
            biases, if no other option says what is trained.
        last_blocks: So many of the last blocks that run, as a whole, with the norm behind them.
        parameters: Names of parameters as timm calls them, e.g. ``blocks.0.attn.qkv.weight``.
            Where timm's files have ``q_bias`` and ``v_bias`` apart, it is ``qkv.bias``.

    Raises:
        UserError: A wrong option; a trunk that lacks what is to be trained, or that is to be held
            in another dtype than float32.
    """

    def __init__(
        self,
        parts: Sequence[str] | None = None,
        last_blocks: int = 0,
        parameters: Sequence[str] = (),
    ) -> None:
        super().__init__()
        check_least('tuner.last_blocks', last_blocks, 0)
        self.parameter_names = (parameters,) if isinstance(parameters, str) else tuple(parameters)
        has_others = last_blocks > 0 or len(self.parameter_names) > 0
        if parts is None:
            parts = () if has_others else ('biases',)
        is_empty = has_others and len(parts) == 0
        self.parts = () if is_empty else check_names('tuner.parts', parts, PARTS)
        self.last_blocks = last_blocks

    def attach(self, trunk: Trunk) -> None:
        """Build nothing; refuse layers whose weight and bias would be of two dtypes."""
        reason = 'it is for layers that are frozen whole, and parts of them are trained in float32'
        check_float32('SelectiveTuner', trunk, reason)

    def trunk_parameters(self, trunk: Trunk) -> list[nn.Parameter]:
        """Return the chosen parameters of what runs.

        Raises:
            UserError: The trunk lacks a part, a block or a parameter.
        """
        running = {id(parameter) for parameter in trunk.running_parameters()}
        running &= {id(parameter) for parameter in own_parameters(trunk)}
        chosen = self._last_blocks(trunk) + self._named(trunk, running)
        missing = []
        for part in self.parts:
            found = [p for p in _FIND[part](trunk) if id(p) in running]
            chosen += found
            missing += [] if found else [part]
        if missing:
            raise UserError(f'tuner.parts {tuple(missing)}: this trunk has none of them')
        unique = {id(parameter): parameter for parameter in chosen if id(parameter) in running}
        return list(unique.values())

    def _last_blocks(self, trunk: Trunk) -> list[nn.Parameter]:
        """Return what the last blocks have, and the norms behind them."""
        if self.last_blocks > trunk.num_layers:
            raise UserError(
                f'tuner.last_blocks {self.last_blocks} is more than the {trunk.num_layers} blocks '
                'that run: hstpeft.FullTuner trains all'
            )
        first = trunk.num_layers - self.last_blocks
        modules = [trunk.block(index) for index in range(first, trunk.num_layers)]
        if modules:
            modules += [trunk.layer(None, name) for name in _final_norms(trunk)]
        return [parameter for module in modules for parameter in module.parameters()]

    def _named(self, trunk: Trunk, running: set[int]) -> list[nn.Parameter]:
        """Return the parameters that the user names."""
        known = dict(trunk.net.named_parameters())
        for name in self.parameter_names:
            if name not in known:
                raise UserError(f'tuner.parameters {name!r} is unknown: {nearest(name, known)}')
            if id(known[name]) not in running:
                raise UserError(
                    f'tuner.parameters {name!r} has no part in the outputs: leave it out, or let '
                    'backbone.out_indices name a later output'
                )
        return [known[name] for name in self.parameter_names]

    def merge(self, trunk: Trunk) -> Tuner:
        """The trained trunk is the merged model already."""
        return FrozenTuner()


def _biases(trunk: Trunk) -> list[nn.Parameter]:
    own = [dict(module.named_parameters(recurse=False)) for module in trunk.modules()]
    return [parameters['bias'] for parameters in own if 'bias' in parameters]


def _norms(trunk: Trunk) -> list[nn.Parameter]:
    return list(norm_parameters(trunk))


def _cls_token(trunk: Trunk) -> list[nn.Parameter]:
    return [] if trunk.cls_token is None else [trunk.cls_token]


def _pos_embed(trunk: Trunk) -> list[nn.Parameter]:
    prefix = [getattr(trunk.net, name, None) for name in ('cls_token', 'reg_token')]
    return [p for p in trunk.token_parameters() if not any(p is token for token in prefix)]


def _attention_proj(trunk: Trunk) -> list[nn.Parameter]:
    layers = [trunk.layer(index, 'proj') for index in range(trunk.num_layers)]
    return [parameter for layer in layers for parameter in layer.parameters()]


def _final_norms(trunk: Trunk) -> list[str]:
    return [name for name in trunk.layer_names(None) if name in BEHIND_BLOCKS]


_FIND = {
    'biases': _biases,
    'norms': _norms,
    'cls_token': _cls_token,
    'pos_embed': _pos_embed,
    'attention_proj': _attention_proj,
}
