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


def told_to_stop(job: str) -> bool:
    """Whether systemd has a job for the unit: then somebody asked; a death by itself has none.

    `job` is what `systemctl show --property Job` prints as value: a number, 0 or nothing if none.
    """
    return job.strip() not in ("", "0")


def main() -> int:
    words = ["systemctl", "show", "--value", "--property", "Job", UNIT]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=ASK_S, check=False)
    if told_to_stop(answer.stdout):
        close_at_boot(Places.real())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
