"""Programs that run inside the lab's servers: echo, mail server, webhook receiver, load, prober.

What enters: command lines of units. What leaves: answers on the network and files that the demo
and the tests read from the host. All lab servers share one kernel, so `time.monotonic()` is the
same clock in all of them.
"""
