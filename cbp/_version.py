"""The version of the package, for all who write it into files."""

from importlib import metadata

try:
    VERSION = metadata.version("cbp-learn")
except metadata.PackageNotFoundError:  # built in place, not installed
    VERSION = "unknown"
