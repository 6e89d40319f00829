"""What becomes of errors at the door: each as a refusal with a status, a code and what to do."""

import math

from serving.errors import RefusedError
from serving.stores import StoreDownError
from serving.waiting import ClosedError, LateError, OverloadedError, ScorersDownError


def as_refusal(error: Exception) -> RefusedError:
    """Return the refusal that an error means for a client; a fault of ours is told without its text."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, OverloadedError):
        seconds = max(1, math.ceil(error.retry_after_s))
        told = f"too much waits for the model already; try again in {seconds} s, or allow more (x-deadline-ms)"
        return RefusedError(429, "overloaded", told, {"retry-after": str(seconds)})
    if isinstance(error, LateError):
        return RefusedError(504, "deadline", "the deadline passed before the model was free (limits.deadline_ms)")
    if isinstance(error, ClosedError):
        return RefusedError(503, "stopping", "this replica stops; ask again", {"retry-after": "1"})
    if isinstance(error, ScorersDownError):
        told = "the processes that hold the model do not answer now; they are replaced by themselves"
        return RefusedError(503, "scorers_down", told, {"retry-after": "5"})
    if isinstance(error, StoreDownError):
        told = "the store of users' events does not answer now; try again"
        return RefusedError(503, "store_down", told, {"retry-after": "1"})
    return RefusedError(500, "internal", "this failed here, not in the request; the log has more under its id")
