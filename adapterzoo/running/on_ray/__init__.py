"""Run cells on the nodes of a Ray cluster: queue.py is here, agent.py is on the nodes."""
