"""The table as a page for people: a diagram of the roles and every row with its sentence.

What enters: the rows. What leaves: Markdown. A test compares it with docs/operating/roles.md, so
the page cannot say anything else than the code does. Pure.
"""

from everup.decide.decide import ALL_ROWS
from everup.decide.duties import DUTIES
from everup.decide.remarks import REMARKS
from everup.decide.row import Row
from everup.decide.table import TRANSITIONS
from everup.model.role import Role

_HEAD = """# Roles: what a server does, and when that changes

Printed from the table in `src/everup/decide/`; the sentence of a row is also the event and the log
line. What is not in a row does not happen. {count} rows.

"""


def page() -> str:
    """The whole page."""
    parts = [
        _HEAD.format(count=len(ALL_ROWS)),
        "## Changes of role\n\n",
        _diagram(),
        "".join(_change(row) for row in TRANSITIONS),
        "\n## Duties: what a server does while it has a role\n\n",
        "".join(_duty(row) for row in DUTIES),
        "\n## Remarks: what is remembered, and what people hear of\n\n",
        "".join(_duty(row) for row in REMARKS),
    ]
    return "".join(parts)


def _diagram() -> str:
    arrows: dict[tuple[Role, Role], list[str]] = {}
    for row in TRANSITIONS:
        for source in row.sources:
            assert row.target is not None
            arrows.setdefault((source, row.target), []).append(row.id)
    lines = [f"    {a.value} --> {b.value}: {', '.join(ids)}" for (a, b), ids in arrows.items()]
    return "```mermaid\nstateDiagram-v2\n" + "\n".join(lines) + "\n```\n\n"


def _change(row: Row) -> str:
    assert row.target is not None
    return f"- **{row.id}**: {_roles(row)} → {row.target.value}. {_sentence(row)}\n"


def _duty(row: Row) -> str:
    return f"- **{row.id}** ({_roles(row)}). {_sentence(row)}\n"


def _roles(row: Row) -> str:
    if set(row.sources) == set(Role):
        return "every role"
    return ", ".join(role.value for role in row.sources)


def _sentence(row: Row) -> str:
    told = " *People are told.*" if row.told else ""
    return f"“{row.sentence}”{told}"
