"""What an unfinished preparation was begun with, in its journal: who goes on may have mended a source since."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from drdecr.data.digests import value_digest
from drdecr.data.whole_files import read_json, write_json

logger = logging.getLogger(__name__)


class Begun:
    """What a preparation is begun with, compared with what its journal was begun with.

    Args:
        journal: of the preparation; need not be there.
        settings: what all its rows depend on, values that JSON can hold.
        sources: name of each source, and what its rows depend on beside that and the sources before it.
    """

    def __init__(self, journal: Path, settings: Any, sources: Iterable[tuple[str, Any]]) -> None:
        self.file = journal / "plan.json"
        self._settings = value_digest(settings)
        self._sources = [[name, value_digest(facts)] for name, facts in sources]

    def outdated(self) -> list[str]:
        """Return the sources of the journal whose rows must be made again: the first that is another now, and all after it.

        Raises:
            ValueError: if it was begun with other settings, or with other sources than those that are given, or some of them
                first: what is done would be lost by a wrong folder's name.
        """
        if not self.file.exists():
            return []
        begun = read_json(self.file)
        before = begun.get("sources", [])
        names = [[name for name, _ in sources] for sources in (before, self._sources)]
        shorter = min(map(len, names))
        if begun.get("settings") != self._settings or names[0][:shorter] != names[1][:shorter]:
            raise ValueError(
                f"{self.file.parent} was begun with other settings, sources or held-out sets. Choose another folder, or "
                "delete it."
            )
        pairs = zip(before, self._sources, strict=False)
        same = next((number for number, (old, new) in enumerate(pairs) if old != new), len(self._sources))
        outdated = names[0][same:]
        if any(file.parent.name in outdated for file in self.file.parent.glob("*/*.json")):
            logger.warning("Made again, for something else is given than in the call before: %s.", ", ".join(outdated))
        return outdated

    def write(self) -> None:
        """Note it down."""
        write_json(self.file, {"settings": self._settings, "sources": self._sources})
