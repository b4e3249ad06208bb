"""What this machine has and does: processes, memory, times, versions."""
