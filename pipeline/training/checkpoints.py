"""Checkpoints of a fine-tuning in a store: complete or absent, and only of the same fine-tuning.

On a local disk or in an object store. One holds all that the next step depends on: weights,
optimiser and the number of the step; what is drawn by chance follows from the seed.
"""

import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.storage.store import Store

_KEEP = 2
_CHECKPOINT, _WEIGHTS, _RESULT = "checkpoint", "weights", "result"


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints of one fine-tuning; `identity` is a hash of everything that decides it."""

    store: Store
    identity: str

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Store the state after `step` steps, and delete all but the newest two."""
        data = io.BytesIO()
        torch.save({"identity": self.identity, "step": step, "state": state}, data)
        self.store.put(_key(step), data.getvalue())
        self.store.delete(self._keys()[:-_KEEP])

    def load_newest(self) -> tuple[int, dict[str, Any]] | None:
        """(step, state); None if there is none. Raises ConfigError for another fine-tuning's."""
        keys = self._keys()
        if not keys:
            return None
        place = self.store.uri(keys[-1])
        try:
            found = torch.load(
                io.BytesIO(self.store.get(keys[-1])), weights_only=True, map_location="cpu"
            )
        except Exception as error:  # torch.load raises pickle, zip and runtime errors alike
            raise ConfigError(
                f"{place}: cannot be read as a checkpoint: {error}; delete it to resume from the "
                "one before"
            ) from error
        if found["identity"] != self.identity:
            raise ConfigError(
                f"{place}: of a fine-tuning with another model, data or settings; delete it, or "
                "set `checkpoints` to another place"
            )
        return found["step"], found["state"]

    def keep_weights(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Store weights that may become part of the result."""
        self._put_weights(_key(step, _WEIGHTS), values)

    def kept_weights(self, step: int) -> dict[str, Tensor]:
        return self._get_weights(_key(step, _WEIGHTS))

    def put_result(self, weights: Mapping[str, Tensor]) -> None:
        """Store the weights that are to be written, for another process."""
        self._put_weights(_key(0, _RESULT), weights)

    def get_result(self) -> dict[str, Tensor]:
        return self._get_weights(_key(0, _RESULT))

    def _put_weights(self, key: str, values: Mapping[str, Tensor]) -> None:
        data = io.BytesIO()
        torch.save({name: value.cpu() for name, value in values.items()}, data)
        self.store.put(key, data.getvalue())

    def _get_weights(self, key: str) -> dict[str, Tensor]:
        return dict(torch.load(io.BytesIO(self.store.get(key)), weights_only=True))

    def drop_weights(self, but: Collection[int]) -> None:
        """Delete kept weights, but those of some steps."""
        wanted = {_key(step, _WEIGHTS) for step in but}
        self.store.delete([key for key in self._keys(_WEIGHTS) if key not in wanted])

    def clear(self) -> None:
        """Delete everything, also what a worker that was killed had not finished."""
        self.store.delete([*self._keys(), *self._keys(_WEIGHTS), *self._keys(_RESULT)])
        self.store.sweep(0.0)

    def _keys(self, kind: str = _CHECKPOINT) -> list[str]:
        return sorted(key for key in self.store.list("") if key.startswith(f"{kind}-"))


def _key(step: int, kind: str = _CHECKPOINT) -> str:
    return f"{kind}-{step:09d}.pt"
