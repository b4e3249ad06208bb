"""The metrics that come with adapterzoo, a plugin module each: :func:`adapterzoo.metric_registry.metrics`."""
