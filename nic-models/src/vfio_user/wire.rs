//! Message layouts of the vfio-user protocol; no I/O here.
