"""Both precisions of a reference check; float64, which sees more, stands for both in the fast tier."""

import pytest

each_precision = pytest.mark.parametrize(
    'float64',
    [pytest.param(False, marks=pytest.mark.slow, id='float32'), pytest.param(True, id='float64')],
)
each_precision_option = pytest.mark.parametrize(
    'options',
    [
        pytest.param([], marks=pytest.mark.slow, id='float32'),
        pytest.param(['--float64'], id='float64'),
    ],
)
