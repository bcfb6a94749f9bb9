//! An L4 load balancer: Maglev and a connection table in an XDP program, health checks and control beside it.
//!
//! The data plane is `bpf/l4lb.bpf.c`. It reads tables ([`layout`]) that the control plane writes ([`dataplane`]). The control
//! plane holds a [`config`], learns from [`health`] and [`neigh`] who can take flows, and turns that into rings ([`maglev`]).

pub mod balancer;
pub mod cli;
pub mod config;
pub mod control;
pub mod dataplane;
pub mod events;
pub mod health;
pub mod layout;
pub mod maglev;
pub mod neigh;
pub mod netlink;
pub mod state;

/// The data plane as clang made it: an ELF object for any XDP loader.
pub const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/l4lb.bpf.o"));
