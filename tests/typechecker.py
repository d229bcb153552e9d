"""The runtime type checker of the tests."""

from beartype import BeartypeConf, beartype

# Python's numeric tower as static checkers read it: an int is welcome where a float is.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
