//! The 82599 driver against the model on the local bus, stepped by hand.

#![cfg(feature = "models")]

mod bringup;
mod faults;
mod life;
mod offloads;
mod rig;
mod traffic;
