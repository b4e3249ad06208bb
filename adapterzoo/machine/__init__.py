"""Use and measure the machine: processes, memory, times, package versions."""
