"""Trains one adapter."""
