"""Serving a tagger: the page, the HTTP API, Annif's REST API and tools for agents, all over one `TaggingService`."""
