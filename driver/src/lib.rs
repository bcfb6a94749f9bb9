//! Userspace poll-mode driver for Intel NICs.
