"""The runtime type checker of the tests."""

import functools

from beartype import BeartypeConf, beartype

# Python's numeric tower as static checkers read it: an int is welcome where a float is.
_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function):
    """Check calls of a function; the checks are written at the first, as a worker calls some functions, and has all."""

    with_checks = functools.cache(lambda: _beartype(function))

    @functools.wraps(function)
    def checked(*args, **kwargs):
        return with_checks()(*args, **kwargs)

    return checked
