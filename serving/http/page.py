"""The interactive page at /docs: it loads nothing but the OpenAPI document, so it works without a network."""

import base64
import hashlib
from functools import cache
from pathlib import Path

from serving.http.outbound import Outbound

_FOLDER = Path(__file__).parent


@cache
def page() -> Outbound:
    """Return the page, with a policy that lets a browser run its own script and no other."""
    script, style = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>raysys</title>'
        f"<style>{style}</style></head><body><main></main><script>{script}</script></body></html>"
    )
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; connect-src 'self'; "
        "frame-ancestors 'none'"
    )
    return Outbound(200, text.encode(), "text/html; charset=utf-8", policy=policy.encode())


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
