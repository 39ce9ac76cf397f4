"""The one door to the operating system: clock, files, processes, notifications."""
