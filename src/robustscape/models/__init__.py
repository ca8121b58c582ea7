"""Networks, one family a file, and loading anyone's."""

from robustscape.models.loading import describe, load

__all__ = ["describe", "load"]
