"""S6: an archive writes below its folder, or nothing."""

import bz2
import io
import stat
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from hstpeft.errors import UserError
from hstpeft.fetch import extract

TARS = {'tar': 'w', 'tar.gz': 'w:gz', 'tar.bz2': 'w:bz2', 'tar.xz': 'w:xz'}
Member = tuple[str, bytes | None]
"""A name, and a content; None for a folder."""


def write_tar(path: Path, members: Sequence[Member], mode: str = 'w', **attributes: object) -> Path:
    """Write a tar whose members have the given attributes."""
    with tarfile.open(path, mode) as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            info.size = len(content or b'')
            for key, value in attributes.items():
                setattr(info, key, value)
            file.addfile(info, io.BytesIO(content or b''))
    return path


def write_zip(path: Path, members: Sequence[Member], mode: int = 0) -> Path:
    """Write a zip whose members have the given Unix mode."""
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            info = zipfile.ZipInfo('a')
            info.filename = name  # as it is: ZipInfo would tidy it
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(info, content or b'')
    return path


MEMBERS = [('./data/', None), ('data/a.txt', b'a'), ('data/b/ü 1.txt', b''), ('empty/', None)]


@pytest.mark.parametrize('kind', [*TARS, 'zip'])
def test_S6_honest_archives_are_unpacked(tmp_path, kind):
    path = tmp_path / f'archive.{kind}'
    write_zip(path, MEMBERS) if kind == 'zip' else write_tar(path, MEMBERS, TARS[kind])
    folder = extract(path, tmp_path / 'new' / 'out')
    found = {p.relative_to(folder).as_posix() for p in folder.rglob('*')}
    assert found == {'data', 'data/a.txt', 'data/b', 'data/b/ü 1.txt', 'empty'}
    assert (folder / 'data/a.txt').read_bytes() == b'a'
    assert [p.name for p in (tmp_path / 'new').iterdir()] == ['out']


NAMES = [
    '../a',
    'b/../../a',
    '/tmp/hstpeft-canary',
    '..',
    'b/..',
    'a\\..\\b',
    'C:/a',
    'a//b',
    '//a',
    'a\nb',
]
LINKS = {
    'symlink': dict(type=tarfile.SYMTYPE, linkname='/etc/passwd'),
    'symlink inside': dict(type=tarfile.SYMTYPE, linkname='b'),
    'hardlink': dict(type=tarfile.LNKTYPE, linkname='../secret'),
    'character device': dict(type=tarfile.CHRTYPE, devmajor=1, devminor=3),
    'block device': dict(type=tarfile.BLKTYPE),
    'pipe': dict(type=tarfile.FIFOTYPE),
}
MODES = {'symlink': stat.S_IFLNK, 'device': stat.S_IFCHR, 'pipe': stat.S_IFIFO}


def hostile_archives() -> dict[str, object]:
    """Name -> a function that writes the archive, after an honest member, into a folder."""
    good = ('good.txt', b'good')
    found = {}
    for name in NAMES:
        members = [good, (name, b'evil')]
        found[f'tar {name!r}'] = lambda d, m=members: write_tar(d / 'a.tar', m)
        found[f'zip {name!r}'] = lambda d, m=members: write_zip(d / 'a.zip', m)
    for kind, attributes in LINKS.items():
        found[f'tar {kind}'] = lambda d, a=attributes: write_tar(d / 'a.tar', [('a', b'')], **a)
    for kind, mode in MODES.items():
        found[f'zip {kind}'] = lambda d, m=mode: write_zip(d / 'a.zip', [good, ('a', b'/etc')], m)
    twice = [good, good]
    found['tar twice'] = lambda d: write_tar(d / 'a.tar', twice)
    found['zip cut'] = lambda d: cut(write_zip(d / 'a.zip', [good] * 1))
    found['tar cut'] = lambda d: cut(write_tar(d / 'a.tar.gz', [('a', bytes(range(256)))], 'w:gz'))
    found['no archive'] = lambda d: text(d / 'a.tar')
    return found


def cut(path: Path) -> Path:
    """Cut the end off a file."""
    path.write_bytes(path.read_bytes()[:-40])
    return path


def text(path: Path) -> Path:
    """Write no archive."""
    path.write_text('no archive')
    return path


HOSTILE = hostile_archives()


@pytest.mark.parametrize('kind', HOSTILE)
def test_S6_hostile_archives_are_refused_and_leave_nothing(tmp_path, kind):
    (tmp_path / 'secret').write_text('secret')
    path = HOSTILE[kind](tmp_path)
    (tmp_path / 'out').mkdir()
    with pytest.raises(UserError, match=rf'archive {path} (is refused|cannot be unpacked)'):
        extract(path, tmp_path / 'out' / 'data')
    assert not list((tmp_path / 'out').iterdir())
    assert {p.name for p in tmp_path.iterdir()} == {path.name, 'secret', 'out'}
    assert not Path('/tmp/hstpeft-canary').exists()


def write_bomb(path: Path, size: int) -> Path:
    """Write an archive that unpacks to zeros: 1000:1 as gzip and zip, 10^6:1 as a bzip2 of them."""
    if path.suffix == '.zip':
        return write_zip(path, [('zeros', bytes(size))])
    return write_tar(path, [('zeros', bytes(size))], TARS[path.name.removeprefix('bomb.')])


@pytest.mark.parametrize('kind', ['zip', 'tar.gz', 'tar.bz2', 'tar.xz'])
def test_S6_bombs_are_refused(tmp_path, kind):
    path = write_bomb(tmp_path / f'bomb.{kind}', 60 * 2**20)
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match='unpacks to more'):
        extract(path, tmp_path / 'out')
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_S6_a_bomb_of_a_million_to_one_is_refused(tmp_path):
    """Bzip2 of 10^9 zeros, made of one compressed block again and again."""
    header = tarfile.TarInfo('zeros')
    header.size = 10**9
    block = bz2.compress(bytes(45 * 10**6))
    start = bz2.compress(header.tobuf())
    (tmp_path / 'bomb.tar.bz2').write_bytes(start + block * 23)
    assert (tmp_path / 'bomb.tar.bz2').stat().st_size * 800_000 < 10**9
    with pytest.raises(UserError, match='unpacks to more'):
        extract(tmp_path / 'bomb.tar.bz2', tmp_path / 'out')
    assert [p.name for p in tmp_path.iterdir()] == ['bomb.tar.bz2']


def test_S6_a_size_that_lies_is_refused(tmp_path):
    """A zip whose directory promises less than it holds."""
    path = write_zip(tmp_path / 'a.zip', [('a', bytes(1000))])
    size = (1000).to_bytes(4, 'little')
    content = path.read_bytes()
    assert content.count(size) == 2
    path.write_bytes(content.replace(size, (10).to_bytes(4, 'little')))
    with pytest.raises(UserError, match=r'archive .* (is refused|cannot be unpacked)'):
        extract(path, tmp_path / 'out')
    assert [p.name for p in tmp_path.iterdir()] == ['a.zip']


@pytest.mark.parametrize('kind', ['zip', 'tar'])
def test_S6_too_many_members_are_refused(tmp_path, kind):
    members = [(f'{number}.txt', b'') for number in range(20)]
    path = (write_zip if kind == 'zip' else write_tar)(tmp_path / f'a.{kind}', members)
    with pytest.raises(UserError, match='more than 19 members'):
        extract(path, tmp_path / 'out', max_members=19)
    assert extract(path, tmp_path / 'out', max_members=20)


def test_S6_what_is_there_stays(tmp_path):
    path = write_tar(tmp_path / 'a.tar', [('a', b'new')])
    (tmp_path / 'out').mkdir()
    extract(path, tmp_path / 'out')  # an empty folder is free
    (tmp_path / 'out' / 'a').write_text('mine')
    with pytest.raises(UserError, match='exists already'):
        extract(path, tmp_path / 'out')
    assert (tmp_path / 'out' / 'a').read_text() == 'mine'
    with pytest.raises(UserError, match='does not exist'):
        extract(tmp_path / 'missing.zip', tmp_path / 'other')


def test_S6_pythons_own_way_writes_outside(tmp_path):
    """The control: the attack is a real one."""
    path = write_tar(tmp_path / 'a.tar', [('../outside', b'evil')])
    (tmp_path / 'out').mkdir()
    with tarfile.open(path) as file:
        file.extractall(tmp_path / 'out', filter='fully_trusted')
    assert (tmp_path / 'outside').exists()
