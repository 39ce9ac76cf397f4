"""The one page: the group live, and the button.

What enters: snapshots of the group. What leaves: what a person sees; and, after a confirmation, the
request for a switchover through the same API as the command line's.
"""

import asyncio
from html import escape
from importlib import resources
from typing import Any

from nicegui import app, ui

from everup.agent.lost_job import LostSwitchover
from everup.console import render
from everup.console.ask import AgentClient
from everup.console.watch import INTERVAL_S, Watch
from everup.errors import EverupError, NotConnected

Json = dict[str, Any]

JOB_POLL_S = 0.25
LOST_S_MAX = 180.0
JOB_SILENCE_S = 30.0
"""While roles change the agent may be busy; only longer silence ends the following of a job."""


def add_page(agent: AgentClient, watch: Watch) -> None:
    """Register the page with NiceGUI."""
    style = resources.files("everup.console").joinpath("style.css").read_text()

    @ui.page("/", title="Everup", favicon="🌱")
    async def index() -> None:
        ui.add_css(style)
        ui.colors(primary="#20675a")
        watch.enter()
        ui.context.client.on_delete(watch.leave)
        await Page(agent, watch).build()

    app.on_shutdown(agent.close)


class Page:
    """One open page of one person."""

    def __init__(self, agent: AgentClient, watch: Watch) -> None:
        self._agent = agent
        self._watch = watch
        self._shown = -1
        self._wanted = ""

    async def build(self) -> None:
        with ui.element("main").classes("everup"):
            with ui.element("nav"):
                ui.html('<span class="mark">everup</span>', sanitize=False)
                self._group = ui.html("", sanitize=False).classes("group")
                ui.link("Log out", "/logout").classes("quiet")
            with ui.element("section").classes("hero"):
                self._light = ui.element("div").classes("light")
                self._headline = ui.html("", sanitize=False).classes("headline")
                self._button = ui.button("Switch over", on_click=self._ask)
                self._button.props("unelevated no-caps").classes("switch")
            self._warnings = ui.html("", sanitize=False)
            self._copying = ui.html("", sanitize=False)
            self._servers = ui.html("", sanitize=False)
            self._facts = ui.html("", sanitize=False)
            ui.html("<h3>What happened</h3>", sanitize=False)
            self._events = ui.html("", sanitize=False)
        self._build_dialog()
        await self._watch.refresh()
        self._draw()
        ui.timer(INTERVAL_S, self._draw)

    def _build_dialog(self) -> None:
        with ui.dialog().props("persistent") as dialog, ui.card().classes("confirm"):
            self._title = ui.label().classes("title")
            self._text = ui.label().classes("text")
            self._bar = ui.linear_progress(show_value=False).props("rounded")
            with ui.element("div").classes("buttons"):
                self._cancel = ui.button("Cancel", on_click=dialog.close)
                self._cancel.props("flat no-caps")
                self._confirm = ui.button("Switch over now", on_click=self._switch)
                self._confirm.props("unelevated no-caps").classes("switch")
        self._dialog = dialog

    def _draw(self) -> None:
        snapshot = self._watch.snapshot
        if snapshot.number == self._shown:
            return
        self._shown = snapshot.number
        status = snapshot.status
        self._light.classes(replace=f"light {render.tone(status, snapshot.trouble)}")
        self._headline.set_content(render.headline(status, snapshot.trouble))
        self._events.set_content(render.events(snapshot.events, status, snapshot.missing))
        self._button.set_enabled(bool(status) and not snapshot.trouble and _target(status) != "")
        if status is not None:
            self._group.set_content(escape(str(status["group"])))
            self._warnings.set_content(render.warnings(status))
            self._copying.set_content(render.synchronizing(status))
            self._servers.set_content(render.servers(status))
            self._facts.set_content(render.facts(status))

    def _ask(self) -> None:
        status = self._watch.snapshot.status
        target, active = _target(status), _active(status)
        # What a person confirms is what is asked for, whatever changes meanwhile.
        self._wanted = target
        self._title.set_text(f"Make {target} the active server?")
        self._text.set_text(
            f"Applications stop on {active} and start on {target}; clients follow the public "
            "address within a few seconds. Nothing is lost, and you can switch back at any time."
        )
        self._bar.set_visibility(False)
        self._confirm.set_visibility(True)
        self._cancel.set_text("Cancel")
        self._cancel.set_enabled(True)
        self._dialog.open()

    async def _switch(self) -> None:
        target = self._wanted
        self._confirm.set_visibility(False)
        self._cancel.set_enabled(False)
        self._bar.set_visibility(True)
        self._bar.props("indeterminate")
        self._title.set_text(f"Switching over to {target}")
        try:
            before = self._watch.snapshot.status or {}
            judge = LostSwitchover(_active(before), int(before.get("epoch") or 0), target)
            job = (await self._agent.post("/v1/switchover", {"to": target}))["job"]
            job = await self._follow(job, judge)
        except EverupError as error:
            self._end("The roles did not change", f"{error.sentence}. {error.remedy}")
            return
        done = job["state"] == "done"
        self._end(
            "Done" if done else "The roles did not change",
            render.progress(job, self._watch.snapshot.status)[1],
        )

    async def _follow(self, job: Json, judge: LostSwitchover) -> Json:
        """`judge` says how it ended when the agent was started anew and has forgotten the job."""
        loop = asyncio.get_running_loop()
        heard = loop.time()
        while job["state"] == "running":
            done, sentence = render.progress(job, self._watch.snapshot.status)
            if done is not None:
                self._bar.props(remove="indeterminate")
                self._bar.set_value(done)
            self._text.set_text(sentence)
            await asyncio.sleep(JOB_POLL_S)
            try:
                job = (await self._agent.get(f"/v1/jobs/{job['id']}"))["job"]
                heard = loop.time()
            except NotConnected:
                if loop.time() - heard > JOB_SILENCE_S:
                    raise
            except EverupError as error:
                if error.code != "unknown-job":
                    raise
                return {**job, "state": "done", "sentence": await self._judged(judge)}
        return job

    async def _judged(self, judge: LostSwitchover) -> str:
        loop = asyncio.get_running_loop()
        end = loop.time() + LOST_S_MAX
        while loop.time() < end:
            snapshot = self._watch.snapshot
            if snapshot.status is not None and not snapshot.trouble:
                sentence = judge.look(snapshot.status, round(loop.time() * 1000))
                if sentence is not None:
                    return sentence
            self._text.set_text("The agent was started anew; the roles of the group will tell")
            await asyncio.sleep(JOB_POLL_S)
        raise NotConnected(
            "it is not known how the switchover ended", remedy="look at the roles above"
        )

    def _end(self, title: str, text: str) -> None:
        self._title.set_text(title)
        self._text.set_text(text)
        self._bar.set_visibility(False)
        self._cancel.set_text("Close")
        self._cancel.set_enabled(True)


def _active(status: Json | None) -> str:
    found = (s["name"] for s in (status or {}).get("servers", ()) if s["role"] == "active")
    return str(next(found, ""))


def _target(status: Json | None) -> str:
    """Who would become active: the first other server that has everything; "" for nobody."""
    if not _active(status):
        return ""
    assert status is not None
    ready = (
        s["name"]
        for s in status["servers"]
        if s["role"] != "active" and s["reachable"] and s["sync"] == "synchronized"
    )
    return str(next(ready, ""))
