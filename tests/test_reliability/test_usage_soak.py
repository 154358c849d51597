"""A slice of tools/soak.py: random wrong configs, none accepted, none with a traceback."""

import random

import pytest

from hstpeft.engine.config import load_config
from tests.support.leaves import LEAVES
from tools.soak_parts.config_mistakes import KINDS, mistakes
from tools.soak_parts.configs import run


@pytest.mark.slow
@pytest.mark.host
def test_U1_random_wrong_configs_end_in_one_line():
    found = run(20, seed=7)
    assert (found['tracebacks'], found['accepted_silently']) == ([], [])
    assert found['refused'] == found['count'] == 20


def test_mistakes_are_of_all_kinds_and_repeat_with_their_seed():
    config = load_config(LEAVES['hst_vit-mini_1xb32-12e_rendered']).to_dict()
    drawn = [mistakes(config, random.Random(3)) for _ in range(2)]
    first, second = ([repr(next(stream)) for _ in range(60)] for stream in drawn)
    assert first == second
    assert all(any(kind.__name__ in text for text in first) for kind in KINDS)
