//! Bytes in, views out: every structure on disk, no I/O.
