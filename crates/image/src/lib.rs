//! Keeps content-addressed blobs and the file systems made of them.
