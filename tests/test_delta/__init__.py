"""Tests of hstpeft.delta."""
