"""After everup-guard has ended: no dead mount stays behind when it will not come back.

What enters: nothing. What leaves: closed gates (plain, read-only directories), if systemd was told
to stop the service. Run by systemd as `ExecStopPost`. When the service died by itself, systemd
starts it again, the kept connections are served again, and they must not be touched here.
"""

import subprocess

from everup.capture.gate import close_at_boot
from everup.places import Places

UNIT = "everup-guard.service"
ASK_S = 5.0
ENDING = ("stop", "restart", "try-restart")


def told_to_stop(jobs: str) -> bool:
    """Whether systemd has a job that ends the unit: somebody asked; a death by itself has none.

    `jobs` is what `systemctl list-jobs` prints: number, unit, type, state. A job that starts it
    says nothing: units that want it, and died with it, are being started again.
    """
    lines = (line.split() for line in jobs.splitlines())
    return any(len(words) == 4 and words[1] == UNIT and words[2] in ENDING for words in lines)


def main() -> int:
    words = ["systemctl", "list-jobs", "--no-legend", "--plain", UNIT]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=ASK_S, check=False)
    if told_to_stop(answer.stdout):
        close_at_boot(Places.real())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
