"""What every HTTP surface of the control plane shares, whichever API it speaks.

From a request to a `Principal`, from an error to a problem document, and what protects both
sides on the way: request ids, rate limits, idempotency keys, cursors and ETags. Services
below never see a request, a header or a setting.
"""
