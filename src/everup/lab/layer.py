"""What is installed on every lab server, made once: an image with the layer that pip leaves.

What enters: the wheels. What leaves: an image file in the cache, to be laid under the servers' own
layers. It is made by the very commands of the install page, in a container on the host's root; the
dependencies are in a second image, so that a change of Everup's code takes seconds.
"""

from pathlib import Path

from everup.lab.base import Base
from everup.lab.commands import run_host
from everup.lab.wheels import Wheels

CACHE = Path("/var/cache/everup-lab")
_IMAGE_BYTES = 2 << 30
_KEPT_IMAGES = 4
_TIMEOUT_S = 300.0
_BUILD = "/run/lab/build"
_ROOT = "/run/lab/build-root"
_WHEELHOUSE = "/mnt/wheelhouse"
_WHEEL = "/mnt/wheel"

Commands = tuple[tuple[str, ...], ...]

# docs/operating/install.md types these two.
INSTALL_COMMANDS = (
    ("python3", "-m", "venv", "/opt/everup"),
    ("/opt/everup/bin/pip", "install", "everup"),
)
# The lab's own programs (mail server, database client) have a place of their own, which also
# sees what is in /opt/everup: the servers' installation stays what a person would have.
_GUEST_COMMANDS = (
    ("python3", "-m", "venv", "/opt/everup-lab"),
    (
        "/opt/everup-lab/bin/python",
        "-c",
        "import site, sys; place = site.getsitepackages()[0];"
        " open(place + '/everup.pth', 'w').write(place.replace('everup-lab', 'everup') + '\\n')",
    ),
    ("/opt/everup-lab/bin/pip", "install", "everup[lab]"),
)
_FORGET_EVERUP = (("/opt/everup/bin/pip", "uninstall", "--yes", "everup"),)


class LayerBuilder:
    """Makes the image that a lab's servers have in common."""

    def __init__(self, base: Base, wheels: Wheels) -> None:
        self._base = base
        self._wheels = wheels

    def image(self) -> Path:
        """The image for these wheels, from the cache or made now."""
        CACHE.mkdir(parents=True, exist_ok=True, mode=0o700)
        dependencies = CACHE / f"dependencies-{self._wheels.dependencies_digest}.img"
        digests = f"{self._wheels.dependencies_digest}-{self._wheels.wheel_digest}"
        layer = CACHE / f"layer-{digests}.img"
        if not dependencies.exists():
            commands = (*INSTALL_COMMANDS, *_GUEST_COMMANDS, *_FORGET_EVERUP)
            self._make(dependencies, None, commands)
        if not layer.exists():
            self._make(layer, dependencies, INSTALL_COMMANDS)
        layer.touch()
        _forget_old_images()
        return layer

    def _make(
        self, target: Path, start: Path | None, commands: tuple[tuple[str, ...], ...]
    ) -> None:
        """Run `commands` over the host's root and keep what they wrote."""
        work = target.with_suffix(f".{self._base.name}.new")
        if start is None:
            with work.open("wb") as handle:
                handle.truncate(_IMAGE_BYTES)
            run_host(["mkfs.ext4", "-q", "-F", str(work)])
        else:
            run_host(["cp", "--sparse=always", str(start), str(work)], timeout_s=_TIMEOUT_S)
        self._mount(work)
        try:
            for command in commands:
                self._run(command)
        finally:
            self._base.run(["umount", _ROOT])
            self._base.run(["umount", _BUILD], timeout_s=_TIMEOUT_S)
        work.rename(target)

    def _mount(self, image: Path) -> None:
        for inside in (_BUILD, _ROOT):
            self._base.path(inside).mkdir(exist_ok=True)
        self._base.run(["mount", "-o", "loop", str(image), _BUILD])
        for name in ("up", "work"):
            (self._base.path(_BUILD) / name).mkdir(exist_ok=True)
        options = f"lowerdir=/,upperdir={_BUILD}/up,workdir={_BUILD}/work"
        self._base.run(["mount", "-t", "overlay", "overlay", "-o", options, _ROOT])

    def _run(self, command: tuple[str, ...]) -> None:
        settings = {
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": f"{_WHEELHOUSE} {_WHEEL}",
            "PIP_CONFIG_FILE": "/dev/null",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
        }
        nspawn = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--as-pid2"]
        binds = [
            f"--bind-ro={self._wheels.wheelhouse.resolve()}:{_WHEELHOUSE}",
            f"--bind-ro={self._wheels.wheel.parent.resolve()}:{_WHEEL}",
        ]
        environment = [f"--setenv={name}={value}" for name, value in settings.items()]
        where = [f"--directory={_ROOT}", f"--machine=build-{self._base.name}", "--private-network"]
        words = [*nspawn, *where, "--pipe", *binds, *environment, *command]
        self._base.run(words, timeout_s=_TIMEOUT_S)


def _forget_old_images() -> None:
    images = sorted(CACHE.glob("*.img"), key=lambda path: path.stat().st_mtime)
    for image in images[:-_KEPT_IMAGES]:
        if not image.name.startswith("dependencies-") or len(images) > 2 * _KEPT_IMAGES:
            image.unlink(missing_ok=True)
