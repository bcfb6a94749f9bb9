//! The datasheets as code: registers, descriptors and behaving models of Intel NICs.

pub mod packet;
