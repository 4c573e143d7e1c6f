"""Checkpoints of a training run, from which a killed run resumes."""

import shutil
from pathlib import Path

from accelerate import Accelerator

from crosstok.errors import UserError

_PARTIAL = "state.partial"


class TrainingCheckpoints:
    """Saves and loads the state of ``accelerator`` in ``folder``; only the latest checkpoint is kept."""

    def __init__(self, accelerator: Accelerator, folder: Path) -> None:
        self._accelerator, self._folder = accelerator, folder

    def save(self, step: int) -> None:
        """Save a checkpoint; older ones are deleted once this one is complete. Raises UserError on a full disk."""
        pending = self._folder / _PARTIAL
        try:
            self._accelerator.save_state(str(pending), safe_serialization=False)  # safetensors would untie tensors
        except OSError as error:
            raise UserError(
                f"The checkpoint of step {step} cannot be saved to {self._folder}: {error}.",
                hint="Free disk space and start again; training resumes from the previous checkpoint.",
            ) from error
        self._accelerator.wait_for_everyone()
        if self._accelerator.is_main_process:
            older = self._saved()
            pending.rename(self._folder / f"state-{step}")
            for state in older.values():
                shutil.rmtree(state)
        self._accelerator.wait_for_everyone()

    def load(self) -> int:
        """Load the latest checkpoint and return its number of steps; 0 if there is none."""
        shutil.rmtree(self._folder / _PARTIAL, ignore_errors=True)
        saved = self._saved()
        if not saved:
            return 0
        step = max(saved)
        self._accelerator.load_state(str(saved[step]))
        return step

    def _saved(self) -> dict[int, Path]:
        return {int(path.name.removeprefix("state-")): path for path in self._folder.glob("state-*")}
