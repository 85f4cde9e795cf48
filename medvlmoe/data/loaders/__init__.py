"""One file per layout of files on disk; each gives a :class:`medvlmoe.data.index.SiteIndex`."""
