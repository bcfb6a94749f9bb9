//! What no single crate can test: network namespaces, guests with foreign drivers, hostile devices.
//!
//! * [`netns`]: network namespaces and veth pairs that are gone again when the value is dropped.
//! * [`guest`]: QEMU guests that run drivers nobody here wrote on our device models.

pub mod guest;
pub mod netns;
