//! Prepares a host for userspace NIC drivers.
