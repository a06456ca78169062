"""Earlier names of arguments, which calls written for an earlier version still use."""

import functools
from collections.abc import Callable


def also_accept(**names: str) -> Callable[[Callable], Callable]:
    """Return a decorator that lets keyword arguments keep their names: earlier = today's."""

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def renamed(*args, **kwargs):
            return function(*args, **{names.get(name, name): kwargs[name] for name in kwargs})

        return renamed

    return decorate
