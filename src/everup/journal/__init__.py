"""The ordered record of every change; format in docs/formats/journal.md."""
