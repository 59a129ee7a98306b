"""What every process needs and no decision depends on: sockets, tasks, logs, settings, the clock."""
