"""The public address in the kernel: mute, permitted, present, announced."""
