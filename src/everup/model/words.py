"""Small words of sentences (pure): what people read should be right in the singular, too."""


def count_text(count: int, noun: str) -> str:
    """1 object, 2 objects."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
