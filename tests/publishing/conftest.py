"""One run whose adapters and comparison are pushed, and a local hub that takes them."""

from publishing_fixtures import hub, run_folder

__all__ = ["hub", "run_folder"]
