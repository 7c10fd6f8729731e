"""Translation by Apertium's command line: rules and dictionaries, fast on any CPU, for the pairs that are installed."""

import re
import shutil
import subprocess

from drdecr.data.languages import spellings

from .translation_store import Engine, Translation

UNKNOWN_WORD = re.compile(r"(?<![\w*#@])[*#@](\w+)")
"""A word that no dictionary holds comes through with `*` before it, one that cannot be put in its form with `#` or `@`."""


class ApertiumTranslator:
    """Runs `apertium` on lines of text.

    The score of a translation is the share of its words that the dictionaries knew, 0 to 1.

    Args:
        keep_unknown: keep words that no dictionary holds, as they stood (default True: most are names, which a search needs);
            False drops them.
        timeout: seconds that one call may take (default 600).

    Raises:
        ImportError: if the program is not installed.
    """

    def __init__(self, keep_unknown: bool = True, timeout: float = 600) -> None:
        program = shutil.which("apertium")
        if program is None:
            raise ImportError(
                "Translation by Apertium needs its program and a language pair, on Debian "
                "`apt-get install apertium apertium-eng-spa`."
            )
        self.program, self.keep_unknown, self.timeout = program, keep_unknown, timeout
        # Without an installed pair the program lists the pattern that it looked for: `*`.
        self.modes = {mode for mode in self._run(["-l"]).split() if re.fullmatch(r"[\w-]+", mode)}
        self._engine = Engine(
            "apertium",
            self._run(["-V"]).removeprefix("Apertium").strip(),
            {"keep_unknown": keep_unknown},
            score="share of words that the dictionaries knew",
        )

    @property
    def engine(self) -> Engine:
        """Apertium and its version; a language pair has no version that the program tells."""
        return self._engine

    def translate(self, texts: list[str], source: str, target: str = "en") -> list[Translation]:
        """Translate texts of one language; see `Translator`. A line break becomes a blank; marks before words go."""
        mode = self._mode(source, target)
        lines = [
            " ".join(UNKNOWN_WORD.sub(r"\1", text).split()) for text in texts
        ]  # a mark of the text's own would count
        if not any(lines):
            return [Translation("", 0.0) for _ in lines]
        found = self._run(["-f", "line", mode], "".join(f"{line}\n" for line in lines)).split("\n")[: len(lines)]
        if len(found) != len(lines):
            raise RuntimeError(
                f"apertium {mode}: expected {len(lines)} lines, got {len(found)}. Try fewer texts at once."
            )
        return [self._translation(line) for line in found]

    def _translation(self, line: str) -> Translation:
        words = max(len(line.split()), 1)
        kept, unknown = UNKNOWN_WORD.subn(r"\1" if self.keep_unknown else "", line)
        return Translation(" ".join(kept.split()), 1 - min(unknown, words) / words if line.strip() else 0.0)

    def _mode(self, source: str, target: str) -> str:
        """Return the installed direction of two languages."""
        for first in spellings(source):
            for second in spellings(target):
                if f"{first}-{second}" in self.modes:
                    return f"{first}-{second}"
        installed = ", ".join(sorted(self.modes)) or "none is"
        raise ValueError(
            f"Apertium: expected a pair that is installed ({installed}), got {source} to {target}. "
            "Install its package, such as `apertium-eng-spa` on Debian."
        )

    def _run(self, arguments: list[str], text: str = "") -> str:
        try:
            done = subprocess.run(
                [self.program, *arguments], input=text, capture_output=True, text=True, check=True, timeout=self.timeout
            )
        except subprocess.CalledProcessError as error:
            said = " ".join((error.stderr or error.stdout or "").split())[:300]
            raise RuntimeError(f"apertium {' '.join(arguments)} failed: {said or error}.") from error
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(
                f"apertium {' '.join(arguments)} took more than {self.timeout:g} s. Try fewer texts at once, or raise `timeout`."
            ) from error
        return done.stdout
