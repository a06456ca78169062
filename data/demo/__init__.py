"""The demo: pictures that the project draws for itself, and what is made of them."""

from data.demo.dataset import Demo

__all__ = ["Demo"]
