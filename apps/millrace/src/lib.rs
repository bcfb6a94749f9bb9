//! Framework for packet applications on millrace ports.
