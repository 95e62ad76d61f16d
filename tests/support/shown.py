"""What the commands beside the jobs print."""

from __future__ import annotations

from pathlib import Path

import pytest

from tart_ray.jobs_command import main


def shown(capsys: pytest.CaptureFixture[str], command: str, path: Path | str, *options: str) -> list[str]:
    """The lines that ``tart-ray COMMAND PATH …`` prints."""
    capsys.readouterr()
    code = main([command, str(path), *options])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out.splitlines()
