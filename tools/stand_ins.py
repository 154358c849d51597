"""Write drawn scenes in the folders of a public data set, to start its configs without it.

python tools/stand_ins.py LAYOUT ROOT [--train N] [--val N] [--size H W] [--seed S]
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hstpeft.datasets.drawn.stand_ins import STAND_INS, write_stand_in
from hstpeft.errors import one_line_errors


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Write a drawn stand-in of a public data set.')
    parser.add_argument('layout', help=f'one of {", ".join(STAND_INS)}')
    parser.add_argument('root', type=Path, help="new folder: the data_root of the set's configs")
    parser.add_argument('--train', type=int, default=4, metavar='N', help='training images')
    parser.add_argument(
        '--val', type=int, default=2, metavar='N', help='validation images (and test images)'
    )
    parser.add_argument(
        '--size', type=int, nargs=2, metavar=('H', 'W'), help='of every image; default: typical'
    )
    parser.add_argument('--seed', type=int, default=0, help='decides what is drawn')
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Write a stand-in."""
    options = parse_options(arguments)
    size = tuple(options.size) if options.size else None
    with one_line_errors('stand_ins.py'):
        root = write_stand_in(
            options.layout, options.root, options.train, options.val, size, options.seed
        )
    for split in STAND_INS[options.layout].splits:
        number = options.val if split != STAND_INS[options.layout].splits[0] else options.train
        print(f'{root}: {number} drawn {split} images in the layout of {options.layout}')


if __name__ == '__main__':
    main()
