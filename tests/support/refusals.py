"""A command line that must be refused."""

import pytest

from unified_extractor.__main__ import main


def refused(capsys, *arguments):
    """The one line on stderr of a call that must fail."""
    with pytest.raises(SystemExit) as stop:
        raise SystemExit(main([str(a) for a in arguments]))
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert printed.err.startswith("uniex: error: ")
    assert printed.err.count("\n") == 1
    return printed.err
