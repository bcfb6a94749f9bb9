//! Loads, verifies and runs unmodified XDP programs in userspace.
