"""Make a delta that others can use and check."""

import hashlib
from pathlib import Path

from hstpeft.delta import load_checkpoint, make_delta
from hstpeft.delta.files import pack_delta
from hstpeft.delta.writing import write_file
from hstpeft.errors import UserError


def publish(checkpoint: str | Path, output: str | Path) -> Path:
    """Cut a training checkpoint down to a delta and put the file's hash into its name.

    Args:
        checkpoint: A training checkpoint or a delta.
        output: File to write, ``.safetensors`` or ``.pth``.

    Returns:
        The path ``NAME-XXXXXXXX.SUFFIX``, X being the start of the file's sha256 (``sha256sum``).
    """
    output = Path(output)
    if output.suffix not in ('.safetensors', '.pth'):
        raise UserError(f'output {output} must end in .safetensors or .pth')
    content = pack_delta(make_delta(load_checkpoint(checkpoint)), output.suffix)
    digest = hashlib.sha256(content).hexdigest()
    published = output.with_name(f'{output.stem}-{digest[:8]}{output.suffix}')
    write_file(published, content)
    return published
