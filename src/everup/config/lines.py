"""On which line of a TOML text each key stands.

What enters: text that `tomllib` has already accepted. What leaves: a line number for every key and
list element. `load` calls this only when there is a mistake to report; the parser of the standard
library knows no positions, and a second full parser would be a dependency for one number.
"""

from typing import Final

KeyPath = tuple[str | int, ...]

_QUOTES: Final = "\"'"
_BLANK: Final = " \t"


def key_lines(text: str) -> dict[KeyPath, int]:
    """Line (from 1) of every key path; elements of lists are numbered from 0."""
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.document()
    return scanner.lines


def line_of(lines: dict[KeyPath, int], path: KeyPath) -> int:
    """Line of a key, else of the nearest key around it, else 1."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return 1


class _Scanner:
    """Walks the text once; trusts its syntax."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._tables: dict[KeyPath, int] = {}
        self.lines: dict[KeyPath, int] = {}

    def document(self) -> None:
        table: KeyPath = ()
        self._skip_space()
        while self._at < len(self._text):
            if self._peek() == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip_space()

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1

    def _skip_space(self) -> None:
        """Past blanks, line ends and comments."""
        while (char := self._peek()) and (char in " \t\n" or char == "#"):
            if char == "#":
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            else:
                self._at += 1

    def _header(self) -> KeyPath:
        line = self._line()
        is_list = self._text.startswith("[[", self._at)
        self._at += 2 if is_list else 1
        path: KeyPath = ()
        names = self._key()
        for position, name in enumerate(names):
            path = (*path, name)
            last = position == len(names) - 1
            if last and is_list:
                self._tables[path] = self._tables.get(path, -1) + 1
                self.lines.setdefault(path, line)
            if path in self._tables:
                path = (*path, self._tables[path])
        self.lines.setdefault(path, line)
        self._at = self._text.index("]", self._at) + (2 if is_list else 1)
        return path

    def _pair(self, table: KeyPath) -> None:
        line = self._line()
        path = table
        for name in self._key():
            path = (*path, name)
            self.lines.setdefault(path, line)
        self._at = self._text.index("=", self._at) + 1
        self._value(path)

    def _key(self) -> list[str]:
        """Dotted key; stops before `=` or `]`."""
        names = []
        while True:
            while self._peek() in _BLANK and self._peek():
                self._at += 1
            start = self._at
            if self._peek() in _QUOTES:
                self._string()
                names.append(self._text[start + 1 : self._at - 1])
            else:
                while self._peek() not in ("", ".", "=", "]", *_BLANK):
                    self._at += 1
                names.append(self._text[start : self._at])
            while self._peek() in _BLANK and self._peek():
                self._at += 1
            if self._peek() != ".":
                return names
            self._at += 1

    def _value(self, path: KeyPath) -> None:
        self._skip_space()
        char = self._peek()
        if char == "[":
            self._collection(path, "]")
        elif char == "{":
            self._collection(path, "}")
        elif char and char in _QUOTES:
            self._string()
        else:
            while self._peek() not in ("", ",", "]", "}", "\n", "#"):
                self._at += 1

    def _collection(self, path: KeyPath, closing: str) -> None:
        self._at += 1
        index = 0
        self._skip_space()
        while self._peek() not in ("", closing):
            if closing == "}":
                self._pair(path)
            else:
                self.lines[(*path, index)] = self._line()
                self._value((*path, index))
                index += 1
            self._skip_space()
            if self._peek() == ",":
                self._at += 1
            self._skip_space()
        self._at += 1

    def _string(self) -> None:
        quote = self._peek()
        if self._text.startswith(quote * 3, self._at):
            quote *= 3
        escapes = quote[0] == '"'
        self._at += len(quote)
        while not self._text.startswith(quote, self._at):
            self._at += 2 if escapes and self._peek() == "\\" else 1
        self._at += len(quote)
        # Up to two more quotes may belong to the content of a three-quote string.
        while len(quote) == 3 and self._peek() == quote[0]:
            self._at += 1
