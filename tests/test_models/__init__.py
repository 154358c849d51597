"""Tests of hstpeft.models."""
