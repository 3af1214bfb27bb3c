"""What runs a task's command: a process of this machine, a container, a batch system."""
