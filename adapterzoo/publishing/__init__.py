"""Publish a trained adapter, a merged model or a comparison on a hub, with a card and without private facts."""
