"""Serving a tagger: the page, the HTTP API, Annif's REST door and the agent's tools, all over one `TaggingService`."""
