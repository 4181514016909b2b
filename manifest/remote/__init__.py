"""Files at addresses: of web servers, of buckets, and of a hub; only the bytes that are needed are read.

Such a file appears as a file of this machine, as long as that and almost empty: what is to be read is fetched into its
place first (`mirror`). So everything that reads files reads these too. Ranges of bytes are fetched by fsspec and its
back ends (`reading`), which are imported when an address is opened.
"""

from manifest.remote.addresses import Address
from manifest.remote.mirror import Mirror, RemoteFile, fetched
from manifest.remote.reading import facts, opened

__all__ = ["Address", "Mirror", "RemoteFile", "facts", "fetched", "opened"]
