"""What the tools read from their command line."""

import pytest

from hstpeft.engine.launch import common_parser


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('3', 3),
        ('1e-3', 1e-3),
        ('true', True),
        ('None', None),
        ('sum', 'sum'),
        ('"mean"', 'mean'),
        ('/my data/cats', '/my data/cats'),
        ("'/my data/cats'", '/my data/cats'),
        ('1 2', '1 2'),
        ('a=b c', 'a=b c'),
        ('', ''),
        ('1,2', [1, 2]),
        ('[1, 2.5]', [1, 2.5]),
        ('(cat, dog)', ('cat', 'dog')),
    ],
)
def test_an_option_keeps_its_blanks_and_finds_its_type(text, value):
    options = common_parser('').parse_args(['config.py', '--cfg-options', f'key={text}'])
    assert options.cfg_options == {'key': value}
    assert type(options.cfg_options['key']) is type(value)


def test_options_given_twice_are_joined():
    flags = ['--cfg-options', 'a.b=1', 'c=x y', '--cfg-options', 'a.b=2']
    assert common_parser('').parse_args(['config.py', *flags]).cfg_options == {'a.b': 2, 'c': 'x y'}
