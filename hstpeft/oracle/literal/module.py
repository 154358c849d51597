"""What the literal forms share as modules: they hold an official state dict."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn


class OfficialModule(nn.Module):
    """Holds copies of the tensors of an official checkpoint.

    Args:
        official: Tensors by their official names.
        is_trainable: Tells by the official rule whether a parameter is trained; default: all are.
        is_buffer: Tells which tensors are no parameters; default: none.
    """

    def __init__(
        self,
        official: Mapping[str, Tensor],
        is_trainable: Callable[[str], bool] = lambda name: True,
        is_buffer: Callable[[str], bool] = lambda name: False,
    ) -> None:
        super().__init__()
        self.names = {name: name.replace('.', '/') for name in official}
        for name, value in official.items():
            if is_buffer(name):
                self.register_buffer(self.names[name], value.clone())
            else:
                parameter = nn.Parameter(value.clone(), is_trainable(name))
                self.register_parameter(self.names[name], parameter)

    def weights(self) -> dict[str, Tensor]:
        """Return the tensors by their official names."""
        return {name: getattr(self, own) for name, own in self.names.items()}
