"""Entry point of the benches, and their measurements in processes of their own: one line for what a bench lacks."""

import subprocess
import sys
from collections.abc import Callable, Sequence

from crosstok.errors import CrosstokError


def run(main: Callable[[], None]) -> None:
    """Call ``main``; an error that the user can put right is one line on stderr and exit code 2."""
    try:
        main()
    except CrosstokError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def last_line(command: Sequence[str]) -> str:
    """Run a command and return the last line that it prints. If it fails, end with the last line of its errors."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"{' '.join(command)} died with {done.returncode}"]
        print(said[-1], file=sys.stderr)
        sys.exit(abs(done.returncode))
    return done.stdout.splitlines()[-1]
