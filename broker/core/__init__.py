"""What the broker decides, and nothing else: events in, commands out. No sockets, clocks, disks or logs."""
