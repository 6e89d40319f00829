"""From the bytes of a request to a checked call of an endpoint, and from whatever comes of it to bytes."""
