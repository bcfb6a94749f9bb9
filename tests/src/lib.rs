//! What no single crate can test: network namespaces, guests with foreign drivers, hostile devices.
//!
//! * [`netns`]: network namespaces and veth pairs that are gone again when the value is dropped.
//! * [`process`]: child processes that do not outlive their owner.
//! * [`reaper`]: ends them when their owner was killed.
//! * [`site`]: clients, a balancer and HTTP backends on one bridge, for the demonstration and the balancer's tests.
//! * [`demo`]: what `make run` shows, on such a site.
//! * [`guest`]: QEMU guests that run drivers nobody here wrote on our device models.

pub mod demo;
pub mod guest;
pub mod netns;
pub mod process;
pub mod reaper;
pub mod site;
