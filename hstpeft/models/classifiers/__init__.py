"""Classifiers for methods that need the images twice."""

from hstpeft.models.classifiers.hma import HMAClassifier

__all__ = ['HMAClassifier']
